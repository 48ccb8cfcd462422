"""The tables that the command line prints."""

import json
from datetime import UTC, datetime
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from rayrec.config import Config
from rayrec.evaluation.trials import in_words
from rayrec.serving.http.auth import api_keys
from rayrec.serving.rollout.arms import CANARY, STABLE, RankerReport, Report
from rayrec.serving.rollout.history import Swap
from rayrec.topics.describing import Description
from rayrec.workspace.versions import Manifest, Workspace

console = Console()
SWAPS_SHOWN = 5


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
    test_users = report["test_users"] if "test_users" in report else report["visitors"]  # rayrec 0.1 called them so
    columns = {"recall": f"Recall@{k}", "ndcg": f"NDCG@{k}", "expected_ctr": "true CTR of the page"}
    table = Table("pages", *columns.values(), title=f"recall + ranking for {test_users:,} users", title_justify="left")
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
        summary = trial["summary"]
        numbers = [f"{summary['auc']:.4f}", f"{summary['log_loss']:.4f}", str(summary["epochs"])] if summary else ["-"] * 3
        note = trial["status"] + (f": {trial['reason']}" if trial["status"] == "failed" else "")
        table.add_row(str(trial["number"]), *numbers, in_words(trial["values"]), note)
    console.print(table)


def show_answers(url: str, users: list[str]) -> None:
    key = next(iter(api_keys()), None)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for user in users:
        answer = httpx.post(f"{url}/v1/recommend", json={"user_id": user, "k": 5}, headers=headers, timeout=30)
        answer.raise_for_status()
        table = Table("video", "title", "score", "why", title=f"POST /v1/recommend for user {user}", title_justify="left")
        for video in answer.json()["videos"]:
            table.add_row(video["video_id"], video["title"] or "", f"{video['score']:.3f}", video["why"])
        console.print(table)


def moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def show_service(details: dict[str, Any], recall: list[Report], rankers: list[RankerReport], history: list[Swap]) -> None:
    """The service: its replicas, which bundle each has and for whom, and the last swaps. `details` is what Serve says of it."""
    told = {report.replica: _served(report) for report in recall} | {each.replica: ", ".join(each.bundles) for each in rankers}
    ages = {report.replica: f"{report.queue_age_s:.1f} s" for report in recall}
    table = Table(
        "replica", "node", "state", "bundle", "queues", title=f"service: {details['status'].lower()}", title_justify="left"
    )
    for name, deployment in details["deployments"].items():
        for replica in deployment["replicas"]:
            id = replica["replica_id"]
            table.add_row(f"{name} {id}", replica["node_ip"], replica["state"].lower(), told.get(id, "-"), ages.get(id, "-"))
    console.print(table)
    for report in recall:
        if report.refused:
            console.print(f"{report.replica} refuses what it was asked for: {report.refused}", markup=False)
    if recall:
        console.print(f"the last hour or two: {recall[0].impressions:,} impressions, {recall[0].clicks:,} clicks")
    show_swaps(history[-SWAPS_SHOWN:])


def show_swaps(history: list[Swap]) -> None:
    table = Table("at (UTC)", "bundle", "canary", "share", "outcome", title="swaps", title_justify="left")
    for swap in history:
        table.add_row(moment(swap.at), swap.version, swap.canary or "-", f"{swap.share:.0%}" if swap.canary else "-", swap.outcome)
    console.print(table)


def _served(report: Report) -> str:
    """`3f2-0`, or with a canary `3f2-0 (90 %), 77a-0 (10 %)`."""
    if CANARY not in report.bundles:
        return report.bundles[STABLE]
    return f"{report.bundles[STABLE]} ({1 - report.share:.0%}), {report.bundles[CANARY]} ({report.share:.0%})"
