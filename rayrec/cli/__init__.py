"""The command line, `rayrec ...`: a thin layer over the stages and the service.

Every module here imports the libraries that a command needs inside that command, so that `rayrec --help` and other small commands
start at once. `tests/cli/test_startup.py` checks which commands do without which libraries.
"""

from rayrec.cli.entry import app, main

__all__ = ["app", "main"]
