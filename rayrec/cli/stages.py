"""The commands that run stages: `rayrec run` for all of them, one command for each, and `rayrec status`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rayrec.cli.common import ConfigPath, Force, Overrides, console, load_config, moment, say
from rayrec.cli.noise import without_known_noise

if TYPE_CHECKING:
    from rayrec.config import Config
    from rayrec.workspace.stage import Stage
    from rayrec.workspace.versions import Manifest, Workspace

PANEL = "Stages"
# The stages of the road that are a command of their own. `topics` has a group of commands.
HELP = {
    "ingest": "Read the data set into the tables catalog, interactions and users.",
    "extract": "Extract feature vectors from the videos of the catalog.",
    "private_public": "Train the private/public network and compute each video's global feature (section `private_public`).",
    "reduce": "Normalise the feature vectors and reduce them by PCA.",
    "train": "Train the ranker on the log of clicks.",
    "evaluate": "Measure the ranker and the pages that it makes on the test split.",
    "publish": "Write the bundle that the service loads.",
}

app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    force: Force = False,
    serve: Annotated[bool, typer.Option(help="Serve the bundle at the end, and leave the service up.")] = True,
) -> None:
    """Run all stages, then serve the result and ask it for the recommendations of three users."""
    from rayrec.cli.results import show_answers, show_metrics
    from rayrec.stages.pipeline import stages_for

    settings = load_config(config, overrides)
    if serve:
        from rayrec.serving.cluster import connection

        say(f"Ray runs at {connection.start(settings).dashboard}")
    run_and_show(stages_for(settings), settings, force)
    show_metrics(settings)
    if serve:
        from rayrec.serving.cluster.service import serve as deploy

        url = deploy(settings)
        show_answers(url, sample_users(settings, 3))
        say(f"\nThe service is up at {url}; `rayrec stop {config}` ends it.")


def stage_command(name: str, help: str) -> Callable[[Path, list[str] | None, bool], None]:
    """The command that runs one stage of the road."""

    def command(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
        from rayrec.stages.pipeline import load_stage

        run_and_show([load_stage(name)], load_config(config, overrides), force)

    command.__doc__ = help
    return command


for _name, _help in HELP.items():
    app.command(_name, rich_help_panel=PANEL)(stage_command(_name, _help))


@app.command(rich_help_panel=PANEL)
def tune(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Search for better settings of the ranker and its training (section `tuning`), and write the best ones as a config."""
    from rayrec.cli.results import show_trials
    from rayrec.stages.tune import BEST, STAGE, TRIALS

    workspace, folder = run_alone(STAGE, load_config(config, overrides), force)
    show_trials(json.loads(workspace.read_file(f"{folder}/{TRIALS}")))
    say(f"Train with the best settings: rayrec train {folder}/{BEST}\nAll trials, and pictures: {folder}")


@app.command(rich_help_panel=PANEL)
def compare(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Train several rankers (section `comparison`) on the same data with several seeds, and measure them on the test split."""
    from rayrec.stages.compare import STAGE, TABLE

    workspace, folder = run_alone(STAGE, load_config(config, overrides), force)
    say(workspace.read_file(f"{folder}/{TABLE}").decode())
    say(f"All results, and a picture: {folder}")


@app.command(rich_help_panel=PANEL)
def status(config: ConfigPath, overrides: Overrides = None) -> None:
    """Show the current version of each stage in the workspace, its tables and how many rows it rejected."""
    from rayrec import __version__
    from rayrec.stages.pipeline import names_for
    from rayrec.workspace.versions import Workspace

    settings = load_config(config, overrides)
    workspace = Workspace(settings.workspace)
    columns = ("stage", "version", "finished (UTC)", "tables", "rejects")
    table = Table(*columns, title=f"workspace {workspace.uri}", title_justify="left")
    older: dict[str, list[str]] = {}  # version of rayrec -> stages
    for name in names_for(settings):
        manifest = workspace.manifest(name)
        if manifest is None:
            table.add_row(name, "-", "-", "-", "-")
            continue
        if manifest.rayrec != __version__:
            older.setdefault(manifest.rayrec, []).append(name)
        rows = ", ".join(f"{table} {rows:,}" for table, rows in manifest.tables.items() if table != "rejects")
        table.add_row(name, manifest.version, moment(manifest.finished_at), rows or "files only", f"{manifest.rejects:,}")
    console.print(table)
    for made_by, names in older.items():
        say(f"Made by rayrec {made_by}: {', '.join(names)}. This is rayrec {__version__}; the next run of a stage redoes it.")


def run_and_show(stages: "list[Stage]", config: "Config", force: bool) -> None:
    """Run stages, and print a row for each."""
    from rayrec.stages.pipeline import run_stages
    from rayrec.workspace.versions import Workspace

    table = Table("stage", "seconds", "rows in", "rows out", "rejects", "", title="stages", title_justify="left")
    try:
        with without_known_noise():
            run_stages(stages, config, force, lambda manifest, done: _add_row(table, manifest, done))
    finally:
        if table.rows:
            console.print(table)
    workspace = Workspace(config.workspace)
    for stage in stages:
        manifest = workspace.manifest(stage.name)
        if manifest and manifest.rejects:
            say(f"{stage.name}: {manifest.rejects} rejects, listed with their reasons in {workspace.folder(stage.name)}/rejects")


def run_alone(stage: "Stage", config: "Config", force: bool) -> "tuple[Workspace, str]":
    """Run one stage. Returns the workspace and the folder of what the stage left there."""
    from rayrec.workspace.versions import Workspace

    run_and_show([stage], config, force)
    workspace = Workspace(config.workspace)
    return workspace, workspace.folder(stage.name)


def sample_users(config: "Config", count: int) -> list[str]:
    """The users with the most clicks."""
    from rayrec.workspace.versions import Workspace

    log = Workspace(config.workspace).read("interactions")
    clicks = log.filter(log["clicked"]).group_by("user_id").aggregate([("clicked", "count")])
    ranked = clicks.sort_by([("clicked_count", "descending"), ("user_id", "ascending")])["user_id"]
    return [str(user) for user in ranked.to_pylist()[:count]]


def _add_row(table: Table, manifest: "Manifest", done: bool) -> None:
    counts = (f"{count:,}" for count in (manifest.rows_in, manifest.rows_out, manifest.rejects))
    table.add_row(manifest.stage, f"{manifest.seconds:.1f}", *counts, "" if done else "unchanged, kept")
