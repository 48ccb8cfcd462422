"""What all commands share: their arguments, the console, the log, and errors as sentences. Imports nothing heavy."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from rayrec.errors import RayrecError

if TYPE_CHECKING:
    from rayrec.config import Config

ConfigPath = Annotated[Path, typer.Argument(help="A YAML config, such as configs/demo.yaml.", metavar="CONFIG", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Any number of section.key=value.", metavar="KEY=VALUE", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Also redo what has not changed.")]

console = Console()


class CommandGroup(TyperGroup):
    """The root of all commands. An error that the user can mend becomes a sentence on stderr; any other keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RayrecError as error:
            Console(stderr=True, style="red").print(f"rayrec: {error}", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error


class ConsoleHandler(logging.Handler):
    """Prints log lines on the console, with colours on a terminal. Long lines are not broken."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(self.format(record), markup=False, soft_wrap=True)


def load_config(path: Path, overrides: list[str] | None) -> "Config":
    """The config of a command's arguments. Raises `ConfigError`."""
    from rayrec.config import load

    return load(path, overrides)


def say(sentence: str) -> None:
    """Print a sentence as it is, without breaking its line."""
    console.print(sentence, markup=False, soft_wrap=True)


def moment(milliseconds: int) -> str:
    """A UTC time such as `2026-11-29 04:24:46`."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
