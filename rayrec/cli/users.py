"""`rayrec users ...`: what was said of users while the service runs."""

from typing import Annotated

import typer

from rayrec.cli.common import ConfigPath, Overrides, counted, load_config, say

app = typer.Typer(no_args_is_help=True, help="Export what was said of users while the service runs.")


@app.callback()
def group() -> None:
    """Makes `export` a subcommand: a group of one command would otherwise be that command."""


@app.command()
def export(
    config: ConfigPath,
    to: Annotated[str, typer.Option(help="A folder or URI, which gets the file users.parquet.")],
    overrides: Overrides = None,
) -> None:
    """Write what callers said of users as rows of the table of users, for the next `ingest`."""
    from rayrec.serving.user_export import export_users

    done = export_users(load_config(config, overrides), to)
    say(f"{counted(done.users, 'user')} in {done.path}. Name it in `dataset.users`.")
