"""The tables of what stages found: metrics, trials of a search, and answers of the service."""

from typing import TYPE_CHECKING, Any

from rich.table import Table

from rayrec.cli.common import console, say

if TYPE_CHECKING:
    from rayrec.config import Config


# What people really make of a page, in the mean over its videos.
TRUE = {"expected_ctr": "true CTR", "expected_watch_s": "true seconds", "expected_likes": "true likes"}


def show_metrics(config: "Config") -> None:
    """Print the report of `evaluate`, unless there is no log yet."""
    from rayrec.workspace.files import from_json
    from rayrec.workspace.stage import lacks_log
    from rayrec.workspace.versions import Workspace

    workspace = Workspace(config.workspace)
    if lacks_log(workspace):
        return
    folder = workspace.folder("evaluate")
    report = from_json(workspace.read_file(f"{folder}/report.json"))
    k = report["k"]
    columns = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss", "accuracy": "accuracy", "calibration_error": "ECE"}
    table = Table("clicks", *columns.values(), title=_measured_on(report), title_justify="left")
    for name, metrics in report["clicks"].items():
        table.add_row(name, *(number(metrics[key]) for key in columns))
    console.print(table)
    for name, goals in report.get("goals", {}).items():
        _show_goals(name, goals)
    _show_parts(report["by_history"], "AUC by the clicks known before the impression")
    if report.get("by_novelty"):  # not in the report of an earlier version
        _show_parts(report["by_novelty"], "AUC by whether training has seen the video")
    columns = {"recall": f"Recall@{k}", "ndcg": f"NDCG@{k}"}
    known = {key for metrics in report["pages"].values() for key in metrics}  # only a synthetic world knows what is true
    columns |= {key: title for key, title in TRUE.items() if key in known}
    table = Table("pages", *columns.values(), title=f"recall + ranking for {report['test_users']:,} users", title_justify="left")
    for name, metrics in report["pages"].items():
        table.add_row(name, *(number(metrics.get(key)) for key in columns))
    console.print(table)
    if report.get("recall_by_source"):  # not in the report of an earlier version
        _show_sources(report["recall_by_source"], report["candidate_recall"])
    for warning in report.get("warnings", []):
        say(f"Warning: {warning}")
    say(f"Pictures: {folder}/report.png, {folder}/breakdown.png, {workspace.folder('train')}/learning_curves.png")


def _show_goals(ranker: str, goals: dict[str, dict[str, float | None]]) -> None:
    """How good each goal of a ranker is predicted."""
    table = Table("goal", "AUC", "XAUC", "predicted / observed", "ECE", "labels", title=f"goals, {ranker}", title_justify="left")
    for goal, metrics in goals.items():
        measures = ("auc", "xauc", "predicted_to_observed", "calibration_error")
        table.add_row(goal, *(number(metrics.get(key)) for key in measures), f"{metrics['labels']:,}")
    console.print(table)


def _measured_on(report: dict[str, Any]) -> str:
    drawn = report.get("drawn", 0)  # not in the report of an earlier version
    more = f" that were clicked, and {drawn:,} videos drawn for them, which were not" if drawn else ""
    return f"test split: {report['impressions']:,} impressions{more}"


def number(value: float | None, digits: int = 4) -> str:
    """A figure, or `-` where it is not defined: an AUC without clicks, for example."""
    return "-" if value is None else f"{value:.{digits}f}"


def _show_parts(models: dict[str, dict[str, dict[str, float | None]]], title: str) -> None:
    """AUC of parts of the test split. All models have the same impressions in each part."""
    parts = next(iter(models.values()))
    table = Table("clicks", *parts, title=title, title_justify="left")
    for name, found in models.items():
        table.add_row(name, *(number(metrics["auc"]) for metrics in found.values()))
    table.add_row("impressions", *(f"{metrics['impressions']:,}" for metrics in parts.values()))
    console.print(table)


def _show_sources(sources: dict[str, dict[str, float]], mix: float | None) -> None:
    """What share of the clicked videos recall finds."""
    columns = {"users": "users", "alone": "recall alone", "shared": "shared", "in_mix": "recall in the mix"}
    table = Table("candidates", *columns.values(), title="what each source of candidates finds", title_justify="left")
    for name, found in sources.items():
        table.add_row(name, *(number(found.get(measure)) for measure in columns))
    table.add_row("all together", "-", "-", "-", number(mix))
    console.print(table)


def show_trials(trials: list[dict[str, Any]]) -> None:
    """Print the trials of `tune`, as its trials.json has them."""
    from rayrec.evaluation.trials import in_words

    table = Table("trial", "AUC", "log loss", "epochs", "settings", "outcome", title="trials, the best first", title_justify="left")
    for trial in trials:
        summary = trial["summary"]
        numbers = [number(summary["auc"]), number(summary["log_loss"]), str(summary["epochs"])] if summary else ["-"] * 3
        note = trial["status"] + (f": {trial['reason']}" if trial["status"] == "failed" else "")
        table.add_row(str(trial["number"]), *numbers, in_words(trial["values"]), note)
    console.print(table)


def show_compression(report: dict[str, Any]) -> None:
    """Print what `compress` reports: each layer, and the outputs on held-out pictures."""
    columns = ("layer", "weights", "kept", "values", "bytes", "of float32", "multiply-adds")
    table = Table(*columns, title="compressed layers", title_justify="left")
    for row in report["layers"]:
        kept, share = f"{row['kept']:.0%}", f"{row['bytes'] / row['original_bytes']:.1%}"
        table.add_row(
            row["layer"], f"{row['weights']:,}", kept, str(row["values"]), f"{row['bytes']:,}", share, f"{row['multiply_adds']:,}"
        )
    console.print(table)
    size = f"{report['bytes']:,} bytes instead of {report['original_bytes']:,}: {report['ratio']:.1f} times fewer"
    for form, quality in report["quality"].items():
        likeness = f"cosine {quality['cosine']:.4f}, distortion {quality['distortion']:.4f}"
        say(f"{form}: outputs for {report['pictures']:,} held-out pictures beside the original's: {likeness}")
        if quality["accuracy"] is not None:
            classes = f"{quality['accuracy']:.1%} (original {report['original_accuracy']:.1%})"
            say(f"{form}: the nearest neighbour of a held-out picture is of its class for {classes}")
    say(f"The file has {size}.")


def show_answers(url: str, users: list[str]) -> None:
    """Ask the service for a page for each user, and print the pages."""
    import httpx

    from rayrec.serving.http.auth import api_keys

    key = next(iter(api_keys()), None)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for user in users:
        answer = httpx.post(f"{url}/v1/recommend", json={"user_id": user, "k": 5}, headers=headers, timeout=30, trust_env=False)
        answer.raise_for_status()
        table = Table("video", "title", "score", "why", title=f"POST /v1/recommend for user {user}", title_justify="left")
        for video in answer.json()["videos"]:
            table.add_row(video["video_id"], video["title"] or "", f"{video['score']:.3f}", video["why"])
        console.print(table)
