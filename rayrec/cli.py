"""`rayrec ...`: the command line. Each command is a thin face of `pipeline.py` or `serving/cluster.py`."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from typer.core import TyperGroup

from rayrec import __version__
from rayrec.config import Config, load
from rayrec.evaluation.topic_report import REPORT, SCORES
from rayrec.pipeline import ASSIGN_TOPICS, COMPARE, STAGES, TOPIC_REPORT, TUNE, road, run_stages
from rayrec.serving import cluster
from rayrec.serving.guard import api_keys
from rayrec.topics.describing import Description, describe
from rayrec.training import comparison, tuning
from rayrec.training.search_report import in_words
from rayrec.workspace import Manifest, Stage, Workspace

app = typer.Typer(
    help="Recommendations for short videos, from raw videos to HTTP, on Ray.", no_args_is_help=True, pretty_exceptions_enable=False
)
console = Console()

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
            console.print(f"Ray runs at {cluster.start(settings).dashboard}")
        stages(road(settings), settings, force)
        show_metrics(settings)
        if serve:
            url = cluster.serve(settings)
            show_answers(url, sample_users(settings, 3))
            console.print(f"\nThe service is up at [link]{url}[/link]; `rayrec stop {config}` ends it.")


def _stage_command(name: str) -> Callable[[Path, list[str] | None, bool], None]:
    def command(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
        with sentences():
            stages([STAGES[name]], load(config, overrides), force)

    command.__doc__ = f"Run the stage `{name}` alone."
    return command


for _name in STAGES:
    if _name != "topics":
        app.command(_name)(_stage_command(_name))


@app.command()
def tune(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Search the settings of the ranker and its training (section `tuning`) and write the best ones as a config."""
    with sentences():
        workspace, folder = done(TUNE, load(config, overrides), force)
        show_trials(json.loads(workspace.read_file(f"{folder}/{tuning.TRIALS}")))
        console.print(f"the best: rayrec train {folder}/{tuning.BEST}\nall trials, and pictures: {folder}")


@app.command()
def compare(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Train several rankers (section `comparison`) on the same data with several seeds and measure them on the test split."""
    with sentences():
        workspace, folder = done(COMPARE, load(config, overrides), force)
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
        stages([ASSIGN_TOPICS], load(config, overrides), force=False)


@topics_app.command()
def report(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Write the topics as a page to look at: words, covers, a map, and how well they know the classes."""
    with sentences():
        workspace, folder = done(TOPIC_REPORT, load(config, overrides), force)
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
            raise ValueError(f"there is no topic {topic}; there are {len(described)}, from 0 on")
        if topic is None:
            show_topics(described)
        else:
            show_topic(described[topic], dict(zip(catalog["video_id"].to_pylist(), catalog["title"].to_pylist(), strict=True)))


@app.command()
def serve(config: ConfigPath, overrides: Overrides = None) -> None:
    """Serve the published bundle on a local Ray cluster that stays up until `rayrec stop`."""
    with sentences():
        settings = load(config, overrides)
        console.print(f"Ray runs at {cluster.start(settings).dashboard}")
        console.print(f"The service is up at {cluster.serve(settings)}")


@app.command()
def stop(config: ConfigPath, overrides: Overrides = None) -> None:
    """End the service and the Ray cluster that `rayrec run` or `rayrec serve` started."""
    with sentences():
        stopped = cluster.stop(load(config, overrides))
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
        for stage in road(settings):
            manifest = workspace.manifest(stage.name)
            if manifest is None:
                table.add_row(stage.name, "-", "-", "-", "-")
                continue
            rows = ", ".join(f"{table} {rows:,}" for table, rows in manifest.tables.items() if table != "rejects")
            table.add_row(
                stage.name, manifest.version, _moment(manifest.finished_at), rows or "files only", f"{manifest.rejects:,}"
            )
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
    """A mistake that the user can mend (every `ValueError` of ours) becomes one sentence on stderr and exit status 1."""
    try:
        yield
    except ValueError as error:
        Console(stderr=True, style="red", soft_wrap=True).print(f"rayrec: {error}", markup=False)
        raise typer.Exit(1) from error


def stages(wanted: list[Stage], config: Config, force: bool) -> None:
    """Run stages on Ray and print a row for each."""
    cluster.connect(config)
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


def done(stage: Stage, config: Config, force: bool) -> tuple[Workspace, str]:
    """The workspace after a stage has run in it, and the folder of what the stage left."""
    stages([stage], config, force)
    workspace = Workspace(config.workspace)
    return workspace, workspace.folder(stage.name)


def add_row(table: Table, manifest: Manifest, done: bool) -> None:
    note = "" if done else "unchanged, kept"
    table.add_row(
        manifest.stage, f"{manifest.seconds:.1f}", f"{manifest.rows_in:,}", f"{manifest.rows_out:,}", f"{manifest.rejects:,}", note
    )


def show_metrics(config: Config) -> None:
    workspace = Workspace(config.workspace)
    folder = workspace.folder("evaluate")
    report = json.loads(workspace.read_file(f"{folder}/report.json"))
    k = report["k"]
    columns = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss", "accuracy": "accuracy", "calibration_error": "ECE"}
    table = Table("clicks", *columns.values(), title=f"test split: {report['impressions']:,} impressions", title_justify="left")
    for name, metrics in report["clicks"].items():
        table.add_row(name, *(f"{metrics[key]:.4f}" for key in columns))
    console.print(table)
    show_by_history(report["by_history"])
    columns = {"recall": f"Recall@{k}", "ndcg": f"NDCG@{k}", "expected_ctr": "true CTR of the page"}
    table = Table("pages", *columns.values(), title=f"recall + ranking for {report['visitors']:,} users", title_justify="left")
    for name, metrics in report["pages"].items():
        table.add_row(name, *(f"{metrics[key]:.4f}" if key in metrics else "-" for key in columns))
    console.print(table)
    console.print(f"pictures: {folder}/report.png, {folder}/breakdown.png, {workspace.folder('train')}/learning_curves.png")


def show_by_history(models: dict[str, dict[str, dict[str, float]]]) -> None:
    """AUC by the number of clicks known before the impression; the parts are the same for all models."""
    parts = next(iter(models.values()))
    table = Table("clicks", *parts, title="AUC by the clicks known before the impression", title_justify="left")
    for name, found in models.items():
        table.add_row(name, *(f"{metrics['auc']:.4f}" for metrics in found.values()))
    table.add_row("impressions", *(f"{metrics['impressions']:,}" for metrics in parts.values()))
    console.print(table)


def show_representations(scores: dict[str, dict[str, dict[str, float]]]) -> None:
    for kind in next(iter(scores.values()), {}):
        title = f"against the {kind}: learned on 90 % of the videos, scored on the others"
        table = Table("representation", "ARI", "NMI", "inter / intra distance", title=title, title_justify="left")
        for name, found in scores.items():
            table.add_row(name, *(f"{value:.3f}" for value in found[kind].values()))
        console.print(table)


def show_topics(described: list[Description]) -> None:
    table = Table("topic", "videos", "words", "tags", "nearest", title="topics", title_justify="left")
    for one in described:
        nearest = ", ".join(f"{other} ({likeness:.2f})" for other, likeness in one.nearest)
        table.add_row(str(one.topic), f"{one.videos:,}", ", ".join(one.words[:5]), ", ".join(one.tags[:5]), nearest)
    console.print(table)


def show_topic(one: Description, titles: dict[str, str | None]) -> None:
    show_topics([one])
    table = Table("video", "title", title="its most typical videos", title_justify="left")
    for video in one.typical_videos:
        table.add_row(video, titles[video] or "")
    console.print(table)


def show_trials(trials: list[dict[str, Any]]) -> None:
    table = Table("trial", "AUC", "log loss", "epochs", "settings", "", title="trials, the best first", title_justify="left")
    for trial in trials:
        course = trial["course"]
        numbers = [f"{course['auc']:.4f}", f"{course['log_loss']:.4f}", str(course["epochs"])] if course else ["-"] * 3
        note = trial["status"] + (f": {trial['reason']}" if trial["status"] == "failed" else "")
        table.add_row(str(trial["number"]), *numbers, in_words(trial["values"]), note)
    console.print(table)


def sample_users(config: Config, count: int) -> list[str]:
    """The users with the most clicks."""
    log = Workspace(config.workspace).read("interactions")
    clicks = log.filter(log["clicked"]).group_by("user_id").aggregate([("clicked", "count")])
    return clicks.sort_by([("clicked_count", "descending"), ("user_id", "ascending")])["user_id"].to_pylist()[:count]


def show_answers(url: str, users: list[str]) -> None:
    headers = {"Authorization": f"Bearer {key}"} if (key := next(iter(api_keys()), None)) else {}
    for user in users:
        answer = httpx.post(f"{url}/v1/recommend", json={"user_id": user, "k": 5}, headers=headers, timeout=30)
        answer.raise_for_status()
        table = Table("video", "title", "score", "why", title=f"POST /v1/recommend for user {user}", title_justify="left")
        for video in answer.json()["videos"]:
            table.add_row(video["video_id"], video["title"] or "", f"{video['score']:.3f}", video["why"])
        console.print(table)


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


if __name__ == "__main__":
    main()
