"""`altdiffusion COMMAND ...`: each command in a file of its own, which parses, calls the library and prints."""

from altdiffusion.cli.main import main as main
