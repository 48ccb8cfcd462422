"""The command line, `rayrec ...`: a thin face of the stages and of the service."""

from rayrec.cli.app import main

__all__ = ["main"]
