"""What all commands share: their arguments, the console, the log, and errors as sentences. Imports nothing heavy."""

import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperArgument, TyperGroup, TyperOption

from rayrec.errors import RayrecError

if TYPE_CHECKING:
    from rayrec.config import Config

ConfigPath = Annotated[Path, typer.Argument(help="A YAML config, such as configs/demo.yaml.", metavar="CONFIG", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Any number of section.key=value.", metavar="KEY=VALUE", show_default=False)
]
# What a terminal obeys instead of showing it: control codes except tab and newline, and marks that turn the text around.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
Force = Annotated[bool, typer.Option("--force", help="Run the stage even if neither its settings nor its inputs have changed.")]


def _type_in_help(self: TyperArgument | TyperOption, ctx: Any) -> str | None:
    """A type such as `<int>` for options with a value. Typer also prints `<bool>` for flags and `<list[str]>` for arguments."""
    return None if isinstance(self, TyperArgument) or self.is_flag else self.metavar or self.display_type(ctx)


TyperArgument.display_type_rich = TyperOption.display_type_rich = _type_in_help  # type: ignore[assignment, method-assign]


class PlainConsole(Console):
    """A console that takes no text for markup, as titles, tags and ids come from catalogs: `[/i]`, `:smile:`, a control code."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(CONTROL.sub("\N{REPLACEMENT CHARACTER}", text), **options)


console = PlainConsole()


class CommandGroup(TyperGroup):
    """The root of all commands. An error that the user can mend becomes a sentence on stderr; any other keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RayrecError as error:
            PlainConsole(stderr=True, style="red").print(f"rayrec: {error}", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error


class ConsoleHandler(logging.Handler):
    """Prints log lines on the console, with colours on a terminal. Long lines are not broken."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(self.format(record), markup=False, soft_wrap=True)


def shipped(name: str) -> Path:
    """A config that comes with rayrec: from the installed package, or from a clone."""
    package = Path(__file__).parents[1]
    return next(path for path in (package / "configs" / name, package.parent / "configs" / name) if path.exists())


def load_config(path: Path, overrides: list[str] | None) -> "Config":
    """The config of a command's arguments. Raises `ConfigError`."""
    from rayrec.config import load

    return load(path, overrides)


def say(sentence: str) -> None:
    """Print a sentence as it is, without breaking its line."""
    console.print(sentence, markup=False, soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """A number and what it counts, such as `1 click` and `1,234 clicks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def moment(milliseconds: int) -> str:
    """A UTC time such as `2026-11-29 04:24:46`."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
