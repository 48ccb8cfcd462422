"""`rayrec ...`: the command line. Each command is a thin face of `pipeline.py` or `serving/service.py`."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from typer.core import TyperGroup

from rayrec import __version__
from rayrec.cli.printing import (
    add_row,
    console,
    moment,
    show_answers,
    show_metrics,
    show_representations,
    show_service,
    show_swaps,
    show_topic,
    show_topics,
    show_trials,
)
from rayrec.config import Config, load
from rayrec.errors import RayrecError
from rayrec.serving.cluster import service, swaps
from rayrec.serving.rollout.history import swap_history
from rayrec.serving.state.export import export_events
from rayrec.stages import compare as comparison
from rayrec.stages import tune as tuning
from rayrec.stages.pipeline import ROAD, load_stage, run_stages, stages_for
from rayrec.stages.topic_report import REPORT, SCORES
from rayrec.stages.topics import ASSIGN
from rayrec.topics.describing import describe
from rayrec.workspace.stage import Stage
from rayrec.workspace.versions import Workspace

app = typer.Typer(
    help="Recommendations for short videos, from raw videos to HTTP, on Ray.", no_args_is_help=True, pretty_exceptions_enable=False
)
ConfigPath = Annotated[Path, typer.Argument(help="A YAML config, such as configs/demo.yaml.", metavar="CONFIG")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value, any number of them.", metavar="[KEY=VALUE]...")]
Force = Annotated[bool, typer.Option("--force", help="Redo stages whose inputs and settings have not changed.")]


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    force: Force = False,
    serve: Annotated[bool, typer.Option(help="Deploy the bundle at the end and leave the service up.")] = True,
) -> None:
    """Run every stage, then serve the result and ask it for three users' recommendations."""
    with sentences():
        settings = load(config, overrides)
        if serve:
            console.print(f"Ray runs at {service.start(settings).dashboard}")
        stages(stages_for(settings), settings, force)
        show_metrics(settings)
        if serve:
            url = service.serve(settings)
            show_answers(url, sample_users(settings, 3))
            console.print(f"\nThe service is up at [link]{url}[/link]; `rayrec stop {config}` ends it.")


def _stage_command(name: str) -> Callable[[Path, list[str] | None, bool], None]:
    def command(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
        with sentences():
            stages([load_stage(name)], load(config, overrides), force)

    command.__doc__ = f"Run the stage `{name}` alone."
    return command


for _name in ROAD:
    if _name != "topics":
        app.command(_name)(_stage_command(_name))


@app.command()
def tune(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Search the settings of the ranker and its training (section `tuning`) and write the best ones as a config."""
    with sentences():
        workspace, folder = run_alone(load_stage("tune"), load(config, overrides), force)
        show_trials(json.loads(workspace.read_file(f"{folder}/{tuning.TRIALS}")))
        console.print(f"the best: rayrec train {folder}/{tuning.BEST}\nall trials, and pictures: {folder}")


@app.command()
def compare(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Train several rankers (section `comparison`) on the same data with several seeds and measure them on the test split."""
    with sentences():
        workspace, folder = run_alone(load_stage("compare"), load(config, overrides), force)
        console.print(workspace.read_file(f"{folder}/{comparison.TABLE}").decode(), markup=False, soft_wrap=True)
        console.print(f"all pairs, and a picture: {folder}")


class LearnByDefault(TyperGroup):
    """`rayrec topics CONFIG` is `rayrec topics learn CONFIG`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["learn", *args]
        return super().parse_args(ctx, args)


topics_app = typer.Typer(cls=LearnByDefault, no_args_is_help=True, help="Learn topics, give them to new videos, look at them.")
app.add_typer(topics_app, name="topics")
topics_app.command("learn")(_stage_command("topics"))


@topics_app.command()
def assign(config: ConfigPath, overrides: Overrides = None) -> None:
    """Give the videos of a catalog that has grown their topics, without training anything anew."""
    with sentences():
        stages([ASSIGN], load(config, overrides), force=False)


@topics_app.command()
def report(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Write the topics as a page to look at: words, covers, a map, and how well they know the classes."""
    with sentences():
        workspace, folder = run_alone(load_stage("topic_report"), load(config, overrides), force)
        show_representations(json.loads(workspace.read_file(f"{folder}/{SCORES}")))
        console.print(f"the page: {folder}/{REPORT}")


@topics_app.command()
def show(
    config: ConfigPath,
    overrides: Overrides = None,
    topic: Annotated[int | None, typer.Option(help="Only this one, with its most typical videos.")] = None,
) -> None:
    """What each topic is about."""
    with sentences():
        workspace = Workspace(load(config, overrides).workspace)
        catalog = workspace.read("catalog")
        centres = workspace.read("topic_centres")["centre"].to_numpy()
        described = describe(catalog, workspace.read("topics"), np.stack(centres)) if len(centres) else []
        if topic is not None and not 0 <= topic < len(described):
            raise RayrecError(f"there is no topic {topic}; there are {len(described)}, from 0 on")
        if topic is None:
            show_topics(described)
        else:
            show_topic(described[topic], dict(zip(catalog["video_id"].to_pylist(), catalog["title"].to_pylist(), strict=True)))


@app.command()
def serve(
    config: ConfigPath,
    overrides: Overrides = None,
    status: Annotated[bool, typer.Option("--status", help="Only say how the running service is.")] = False,
) -> None:
    """Serve the published bundle on a local Ray cluster that stays up until `rayrec stop`."""
    with sentences():
        settings = load(config, overrides)
        if status:
            history = swap_history(Workspace(settings.workspace))
            show_service(service.details(settings), service.reports(settings), service.ranker_reports(settings), history)
            return
        console.print(f"Ray runs at {service.start(settings).dashboard}")
        console.print(f"The service is up at {service.serve(settings)}")


@app.command()
def swap(
    config: ConfigPath,
    overrides: Overrides = None,
    bundle: Annotated[str | None, typer.Option(help="A published version; the current one when not given.")] = None,
    canary: Annotated[float | None, typer.Option(help="Only for this share of the users, such as 0.1; the others stay.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, and move to whatever is published.")] = False,
) -> None:
    """Move the running service to a published bundle without dropping a request."""
    with sentences():
        settings = load(config, overrides)
        if watch:
            if bundle is not None:
                raise RayrecError("--watch moves to whatever is published; it takes no --bundle")
            swaps.watch(settings, canary, lambda sentence: console.print(sentence, markup=False))
        done = swaps.swap(settings, bundle, canary)
        if done is None:
            console.print("nothing to do: that is what is served")
        else:
            show_swaps([done])


@app.command()
def rollback(config: ConfigPath, overrides: Overrides = None) -> None:
    """End the canary or, without one, move the running service back to the bundle before."""
    with sentences():
        show_swaps([swaps.rollback(load(config, overrides))])


events_app = typer.Typer(no_args_is_help=True, help="What users did with what they were shown.")
app.add_typer(events_app, name="events")


@events_app.command()
def export(
    config: ConfigPath,
    to: Annotated[str, typer.Option(help="A folder or URI; a file a day, and only days that changed are written.")],
    overrides: Overrides = None,
) -> None:
    """Write the events as the table `interactions`, for the next training."""
    with sentences():
        done = export_events(load(config, overrides), to)
        console.print(
            f"{done.events:,} new events: {done.impressions:,} impressions in {done.days} daily files; "
            f"{done.waiting:,} clicks and the like wait for their impression"
        )


@app.command()
def stop(config: ConfigPath, overrides: Overrides = None) -> None:
    """End the service and the Ray cluster that `rayrec run` or `rayrec serve` started."""
    with sentences():
        stopped = service.stop(load(config, overrides))
        console.print("stopped" if stopped else "nothing was running")


@app.command()
def status(config: ConfigPath, overrides: Overrides = None) -> None:
    """What is in the workspace: each stage's current version, its tables and its rejects."""
    with sentences():
        settings = load(config, overrides)
        workspace = Workspace(settings.workspace)
        table = Table(
            "stage", "version", "finished (UTC)", "tables", "rejects", title=f"workspace {workspace.uri}", title_justify="left"
        )
        for stage in stages_for(settings):
            manifest = workspace.manifest(stage.name)
            if manifest is None:
                table.add_row(stage.name, "-", "-", "-", "-")
                continue
            rows = ", ".join(f"{table} {rows:,}" for table, rows in manifest.tables.items() if table != "rejects")
            table.add_row(stage.name, manifest.version, moment(manifest.finished_at), rows or "files only", f"{manifest.rejects:,}")
        console.print(table)


@app.command()
def version() -> None:
    """The version of rayrec."""
    console.print(__version__)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; the process's own arguments when none are given."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_path=False, show_level=False, show_time=False)],
    )
    logging.getLogger("rayrec").setLevel(logging.INFO)
    app(arguments)


@contextmanager
def sentences() -> Iterator[None]:
    """What the user can mend (every `RayrecError`) becomes a sentence on stderr and exit status 1."""
    try:
        yield
    except RayrecError as error:
        Console(stderr=True, style="red", soft_wrap=True).print(f"rayrec: {error}", markup=False)
        raise typer.Exit(1) from error


def stages(wanted: list[Stage], config: Config, force: bool) -> None:
    """Run stages on Ray and print a row for each."""
    service.connect(config)
    table = Table("stage", "seconds", "rows in", "rows out", "rejects", "", title="stages", title_justify="left")
    try:
        run_stages(wanted, config, force, lambda manifest, done: add_row(table, manifest, done))
    finally:
        console.print(table)
    workspace = Workspace(config.workspace)
    for stage in wanted:
        manifest = workspace.manifest(stage.name)
        if manifest and manifest.rejects:
            console.print(
                f"{stage.name}: {manifest.rejects} rejects, listed with their reasons in {workspace.folder(stage.name)}/rejects"
            )


def run_alone(stage: Stage, config: Config, force: bool) -> tuple[Workspace, str]:
    """The workspace after a stage has run in it, and the folder of what the stage left."""
    stages([stage], config, force)
    workspace = Workspace(config.workspace)
    return workspace, workspace.folder(stage.name)


def sample_users(config: Config, count: int) -> list[str]:
    """The users with the most clicks."""
    log = Workspace(config.workspace).read("interactions")
    clicks = log.filter(log["clicked"]).group_by("user_id").aggregate([("clicked", "count")])
    return clicks.sort_by([("clicked_count", "descending"), ("user_id", "ascending")])["user_id"].to_pylist()[:count]
