"""`rayrec init`: a config to start from."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rayrec.cli.common import console, say
from rayrec.errors import RayrecError

HEAD = """# Guessed by `rayrec init` from the first rows of each file. Check it. Every key is explained in
# https://github.com/rayrec/rayrec/blob/main/docs/reference.md
# A column of ours that has another name in your files: {ours: yours}.
"""

app = typer.Typer()


@app.command(rich_help_panel="Start")
def init(
    catalog: Annotated[str, typer.Argument(help="The table of videos (.parquet, .csv or .jsonl), or a folder of videos.")],
    log: Annotated[str | None, typer.Argument(help="The log of what users were shown and clicked.")] = None,
    users: Annotated[str | None, typer.Option(help="A table of users.")] = None,
    to: Annotated[Path, typer.Option(help="The config to write.")] = Path("rayrec.yaml"),
) -> None:
    """Look at your files, and write a config for them: columns and separators are guessed and shown."""
    import yaml

    from rayrec.config import load
    from rayrec.datasets.guessing import guess

    if to.exists():
        raise RayrecError(f"{to} is there already; name another file with --to, or delete it")
    found = guess(catalog, log, users)
    table = Table("table", "our column", "yours", "an example", title=f"guessed for {to}", title_justify="left")
    for row in found.columns:
        table.add_row(*row)
    console.print(table)
    shown = {name: value for name, value in found.dataset.items() if name in ("list_separator", "click_at_least", "click_rule")}
    say(", ".join(f"{name}: {value}" for name, value in shown.items()) or "Nothing else had to be guessed.")
    try:
        settings = {"workspace": "workspace", "dataset": found.dataset}
        to.write_text(HEAD + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    except OSError as error:
        raise RayrecError(f"{to} can't be written: {error.strerror}") from error
    load(to)
    for sentence in found.open:
        say(sentence)
    say(f"Check {to}, then run: rayrec run {to}")
