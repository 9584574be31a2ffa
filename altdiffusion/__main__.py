"""`python -m altdiffusion`: the command line."""

import sys

from altdiffusion.cli.main import main

sys.exit(main())
