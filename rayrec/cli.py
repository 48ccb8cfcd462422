"""`rayrec ...`: the command line. Each command is a thin face of `pipeline.py` or `serving/cluster.py`."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from rayrec import __version__
from rayrec.config import Config, load
from rayrec.pipeline import STAGES, run_stages
from rayrec.serving import cluster
from rayrec.serving.guard import api_keys
from rayrec.workspace import Manifest, Workspace

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
        stages(list(STAGES), settings, force)
        show_metrics(settings)
        if serve:
            url = cluster.serve(settings)
            show_answers(url, sample_users(settings, 3))
            console.print(f"\nThe service is up at [link]{url}[/link]; `rayrec stop {config}` ends it.")


def _stage_command(name: str) -> Callable[[Path, list[str] | None, bool], None]:
    def command(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
        with sentences():
            stages([name], load(config, overrides), force)

    command.__doc__ = f"Run the stage `{name}` alone."
    return command


for _name in STAGES:
    app.command(_name)(_stage_command(_name))


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
        workspace = Workspace(load(config, overrides).workspace)
        table = Table(
            "stage", "version", "finished (UTC)", "tables", "rejects", title=f"workspace {workspace.uri}", title_justify="left"
        )
        for name in STAGES:
            manifest = workspace.manifest(name)
            if manifest is None:
                table.add_row(name, "-", "-", "-", "-")
                continue
            rows = ", ".join(f"{table} {rows:,}" for table, rows in manifest.tables.items() if table != "rejects")
            table.add_row(name, manifest.version, _moment(manifest.finished_at), rows or "files only", f"{manifest.rejects:,}")
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


def stages(names: list[str], config: Config, force: bool) -> None:
    """Run stages on Ray and print a row for each."""
    cluster.connect(config)
    table = Table("stage", "seconds", "rows in", "rows out", "rejects", "", title="stages", title_justify="left")
    try:
        run_stages(names, config, force, lambda manifest, done: add_row(table, manifest, done))
    finally:
        console.print(table)
    workspace = Workspace(config.workspace)
    for name in names:
        manifest = workspace.manifest(name)
        if manifest and manifest.rejects:
            console.print(f"{name}: {manifest.rejects} rejects, listed with their reasons in {workspace.folder(name)}/rejects")


def add_row(table: Table, manifest: Manifest, done: bool) -> None:
    note = "" if done else "unchanged, kept"
    table.add_row(
        manifest.stage, f"{manifest.seconds:.1f}", f"{manifest.rows_in:,}", f"{manifest.rows_out:,}", f"{manifest.rejects:,}", note
    )


def show_metrics(config: Config) -> None:
    workspace = Workspace(config.workspace)
    folder = workspace.folder("evaluate")
    with workspace.fs.open_input_file(f"{folder}/report.json") as stream:
        report = json.loads(stream.read())
    k = report["k"]
    columns = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss", "accuracy": "accuracy"}
    table = Table("clicks", *columns.values(), title=f"test split: {report['impressions']:,} impressions", title_justify="left")
    for name, metrics in report["clicks"].items():
        table.add_row(name, *(f"{metrics[key]:.4f}" for key in columns))
    console.print(table)
    columns = {"recall": f"Recall@{k}", "ndcg": f"NDCG@{k}", "expected_ctr": "true CTR of the page"}
    table = Table("pages", *columns.values(), title=f"recall + ranking for {report['visitors']:,} users", title_justify="left")
    for name, metrics in report["pages"].items():
        table.add_row(name, *(f"{metrics[key]:.4f}" if key in metrics else "-" for key in columns))
    console.print(table)
    console.print(f"pictures: {folder}/report.png, {workspace.folder('train')}/learning_curves.png")


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
