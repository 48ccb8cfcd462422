"""`rayrec events ...`: what users did with the videos that they were shown."""

from typing import Annotated

import typer

from rayrec.cli.common import ConfigPath, Overrides, load_config, say

app = typer.Typer(no_args_is_help=True, help="Export what users did with the videos that they were shown.")


@app.callback()
def group() -> None:
    """Makes `export` a subcommand: a group of one command would otherwise be that command."""


@app.command()
def export(
    config: ConfigPath,
    to: Annotated[str, typer.Option(help="A folder or URI. It gets one file for each day; only days that changed are written.")],
    overrides: Overrides = None,
) -> None:
    """Write the events as the table `interactions`, for the next training."""
    from rayrec.serving.state.export import export_events

    done = export_events(load_config(config, overrides), to)
    say(
        f"{done.events:,} new events: {done.impressions:,} impressions in {done.days} daily files. "
        f"{done.waiting:,} clicks and other events wait for their impression."
    )
