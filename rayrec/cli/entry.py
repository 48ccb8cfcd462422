"""The root of all commands, and the entry point of the program."""

import errno
import io
import logging
import os
import sys
import warnings
from typing import Annotated

import typer

from rayrec import __version__
from rayrec.cli import events, experiments, init, service, stages, topics, users, videos, weights
from rayrec.cli.common import CommandGroup, ConsoleHandler, console

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

app = typer.Typer(
    cls=CommandGroup,
    help="Recommendations for short videos, from raw videos to answers over HTTP, on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(init.app)
app.add_typer(weights.app)
app.add_typer(stages.app)
app.add_typer(topics.app, name="topics", rich_help_panel=stages.PANEL)
app.add_typer(service.app)
app.add_typer(experiments.app, name="experiment", rich_help_panel=service.PANEL)
app.add_typer(events.app, name="events", rich_help_panel=service.PANEL)
app.add_typer(videos.app, name="videos", rich_help_panel=service.PANEL)
app.add_typer(users.app, name="users", rich_help_panel=service.PANEL)
about = typer.Typer()


@about.command(rich_help_panel="About")
def version() -> None:
    """Print the version of rayrec."""
    console.print(__version__, highlight=False)


app.add_typer(about)  # last in the help


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """The options that come before a command."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Without `arguments` it is the one that this process was started with."""
    # Libraries use it to tell their callers, which is us, about coming changes. A user can do nothing about these.
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed, as by `2>&-`; a file that is opened later must not get its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for a terminal or file whose encoding lacks letters of a title
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[ConsoleHandler()])
    logging.getLogger("rayrec").setLevel(logging.INFO)
    try:
        try:
            app(arguments)
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:  # stages say themselves which disk is full
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes as it ends
        sys.stderr.write(f"rayrec: the output can't be written: {error.strerror}\n")
        sys.exit(1)
