"""`rayrec videos ...`: the videos that were added while the service runs."""

from typing import Annotated

import typer

from rayrec.cli.common import ConfigPath, Overrides, counted, load_config, say

app = typer.Typer(no_args_is_help=True, help="Export the videos that were added while the service runs.")


@app.callback()
def group() -> None:
    """Makes `export` a subcommand: a group of one command would otherwise be that command."""


@app.command()
def export(
    config: ConfigPath,
    to: Annotated[str, typer.Option(help="A folder or URI, which gets the file catalog.parquet.")],
    overrides: Overrides = None,
) -> None:
    """Write the added videos as rows of the catalog, for the next `ingest`."""
    from rayrec.serving.video_export import export_videos

    done = export_videos(load_config(config, overrides), to)
    say(f"{counted(done.new, 'new video')}, {counted(done.videos, 'video')} in {done.path}. Name it in `dataset.catalog`.")
