"""`rayrec events ...`: what users did with the videos that they were shown."""

from typing import Annotated

import typer

from rayrec.cli.common import ConfigPath, Overrides, counted, load_config, say

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
        f"{counted(done.events, 'new event')}: {counted(done.impressions, 'impression')} in {counted(done.days, 'daily file')}. "
        f"Clicks and other events that wait for their impression: {done.waiting:,}."
    )
