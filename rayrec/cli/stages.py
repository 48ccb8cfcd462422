"""The commands that run stages: `rayrec run` for all of them, one command for each, and `rayrec status`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer
from rich.table import Table

from rayrec.cli.common import ConfigPath, Force, Overrides, console, load_config, moment, say, shipped
from rayrec.cli.noise import without_known_noise

if TYPE_CHECKING:
    from rayrec.config import Config
    from rayrec.workspace.stage import Stage
    from rayrec.workspace.versions import Manifest, Workspace

PANEL = "Stages"
# The stages of the pipeline that are a command of their own. `topics` has a group of commands.
HELP = {
    "ingest": "Read the data set into the tables catalog, interactions and users, and the music into tracks and ratings.",
    "extract": "Extract feature vectors from the videos of the catalog.",
    "private_public": "Train the private/public network and compute each video's global feature (section `private_public`).",
    "reduce": "Normalise the feature vectors and reduce them by PCA.",
    "search_index": "Learn one space for words, pictures and sounds, and index the videos in it (section `search`).",
    "encode": "Turn the log into the numbers that rankers are trained on.",
    "collaborative": "Fit a model of who liked what, for recall (section `collaborative`).",
    "music": "Learn from ratings which track of music a user would like (section `music`).",
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
    """Run all stages, serve the result, and print what the service recommends to three users, or to a guest without a log."""
    from rayrec.cli.results import show_answers, show_metrics
    from rayrec.stages.pipeline import check, stages_for

    settings = load_config(config, overrides)
    stages = stages_for(settings)
    if not serve:
        run_and_show(stages, settings, force)
        show_metrics(settings)
        return
    from rayrec.serving.cluster import connection, service

    check(stages, settings)
    service.check(settings)
    with connection.started(settings):
        run_and_show(stages, settings, force)
        show_metrics(settings)
        url = service.serve(settings)
        users = sample_users(settings, 3)
        show_answers(url, users)
    say(
        f"\nTo see the feed obey, open {url}/?user={quote(users[0], safe='')}, press Less beside a video, and choose what you\n"
        "want less of. The next videos follow it, the page says so under What you asked for, and Undo takes it back.\n"
        "A like brings more."
    )
    say(f"\nThe service is up at {url}; `rayrec stop {config}` ends it.")


@app.command(rich_help_panel=PANEL)
def demo(overrides: Overrides = None) -> None:
    """Make a small world of videos and people, run all stages on it, and serve the result. Its files are in workspace/demo."""
    run(shipped("demo.yaml"), overrides)


def stage_command(name: str, help: str) -> Callable[[Path, list[str] | None, bool], None]:
    """The command that runs one stage of the pipeline."""

    def command(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
        from rayrec.cli.results import show_metrics
        from rayrec.stages.pipeline import load_stage

        settings = load_config(config, overrides)
        run_and_show([load_stage(name)], settings, force)
        if name == "evaluate":
            show_metrics(settings)

    command.__doc__ = help
    return command


for _name, _help in HELP.items():
    app.command(_name, rich_help_panel=PANEL)(stage_command(_name, _help))


@app.command(rich_help_panel=PANEL)
def compress(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Make a small and fast form of the image network for `extract` (section `features.image.compression`)."""
    from rayrec.cli.results import show_compression
    from rayrec.stages.compress import REPORT, STAGE, place
    from rayrec.workspace.files import from_json

    settings = load_config(config, overrides)
    workspace, folder = run_alone(STAGE, settings, force)
    show_compression(from_json(workspace.read_file(f"{folder}/{REPORT}")))
    say(f"The compressed network: {place(workspace, folder, settings)}\nWith this config, `rayrec extract` uses it.")


@app.command(rich_help_panel=PANEL)
def tune(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Search for better settings of the ranker and its training (section `tuning`), and write the best ones as a config."""
    from rayrec.cli.results import show_trials
    from rayrec.stages.tune import BEST, STAGE, TRIALS
    from rayrec.workspace.files import from_json

    workspace, folder = run_alone(STAGE, load_config(config, overrides), force)
    show_trials(from_json(workspace.read_file(f"{folder}/{TRIALS}")))
    say(f"Train with the best settings: rayrec train {folder}/{BEST}\nAll trials, and pictures: {folder}")


@app.command(rich_help_panel=PANEL)
def compare(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Train several rankers (section `comparison`) on the same data with several seeds, and measure them on the test split."""
    from rayrec.stages.compare import STAGE, TABLE

    workspace, folder = run_alone(STAGE, load_config(config, overrides), force)
    say(workspace.read_file(f"{folder}/{TABLE}").decode())
    say(f"All results, and a picture: {folder}")


@app.command(rich_help_panel=PANEL)
def replay(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Let several rankers (section `replay`) predict the last days of the log, and learn from each day when it is over."""
    from rayrec.stages.replay import STAGE, TABLE

    workspace, folder = run_alone(STAGE, load_config(config, overrides), force)
    say(workspace.read_file(f"{folder}/{TABLE}").decode())
    say(f"All days, and a picture: {folder}")


@app.command("ab_test", rich_help_panel=PANEL)
def ab_test(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Let simulated people browse what several arms recommend (section `ab_test`), and compare what they do."""
    from rayrec.stages.ab_test import REPORT, STAGE, TABLE

    workspace, folder = run_alone(STAGE, load_config(config, overrides), force)
    say(workspace.read_file(f"{folder}/{TABLE}").decode())
    say(f"The report: {folder}/{REPORT}")


@app.command("off_policy", rich_help_panel=PANEL)
def off_policy(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Estimate from places that explored what another ranker would be clicked there (section `off_policy`)."""
    from rayrec.stages.off_policy import STAGE, TABLE

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


@app.command(rich_help_panel=PANEL)
def rejects(config: ConfigPath, overrides: Overrides = None) -> None:
    """Print the rows and files that the stages could not use, each with the reason."""
    from rayrec.cli.rejects import show_all_rejects
    from rayrec.stages.pipeline import names_for
    from rayrec.workspace.versions import Workspace

    settings = load_config(config, overrides)
    show_all_rejects(Workspace(settings.workspace), names_for(settings))


def run_and_show(stages: "list[Stage]", config: "Config", force: bool) -> None:
    """Run stages, and print a row for each."""
    from rayrec.cli.rejects import show_first_rejects
    from rayrec.stages.pipeline import run_stages
    from rayrec.workspace.versions import Workspace

    finished: list[tuple[Manifest, bool]] = []
    try:
        with without_known_noise():
            run_stages(stages, config, force, lambda manifest, done: finished.append((manifest, done)))
    finally:
        if finished:
            console.print(_table_of(finished))
    workspace = Workspace(config.workspace)
    for stage in stages:
        show_first_rejects(workspace, stage.name)


def run_alone(stage: "Stage", config: "Config", force: bool) -> "tuple[Workspace, str]":
    """Run one stage. Returns the workspace and the folder of what the stage left there."""
    from rayrec.workspace.versions import Workspace

    run_and_show([stage], config, force)
    workspace = Workspace(config.workspace)
    return workspace, workspace.folder(stage.name)


def sample_users(config: "Config", count: int) -> list[str]:
    """The users with the most clicks, or a guest if there are none."""
    from rayrec.workspace.versions import Workspace

    log = Workspace(config.workspace).read("interactions")
    clicks = log.filter(log["clicked"]).group_by("user_id").aggregate([("clicked", "count")])
    ranked = clicks.sort_by([("clicked_count", "descending"), ("user_id", "ascending")])["user_id"]
    return [str(user) for user in ranked.to_pylist()[:count]] or ["guest"]


def _table_of(finished: "list[tuple[Manifest, bool]]") -> Table:
    """A row for each stage. The last column is there only if some stage had nothing to do."""
    note = [] if all(done for _, done in finished) else ["note"]
    table = Table("stage", "seconds", "rows in", "rows out", "rejects", *note, title="stages", title_justify="left")
    for manifest, done in finished:
        counts = (f"{count:,}" for count in (manifest.rows_in, manifest.rows_out, manifest.rejects))
        notes = ["" if done else "unchanged, kept"] if note else []
        table.add_row(manifest.stage, f"{manifest.seconds:.1f}", *counts, *notes)
    return table
