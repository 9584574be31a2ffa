"""`python -m altdiffusion.cli`, as torchrun and accelerate start it."""

import sys

from altdiffusion.cli.main import main

sys.exit(main())
