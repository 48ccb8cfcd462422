"""What a comparison of rankers measured: as a table in Markdown, with the facts behind it, and as a picture."""

import io
import json
import os
import time
from dataclasses import dataclass, field
from math import isfinite
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from rayrec import __version__
from rayrec.config import Config, Section, dump
from rayrec.evaluation.plotting import plain
from rayrec.evaluation.popularity import strongest
from rayrec.evaluation.trials import TrainingSummary

RESULTS, TABLE, PICTURE = "results.json", "results.md", "comparison.png"  # files of the stage `compare`
METRICS = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss"}
OF_GOALS = {"auc": "AUC", "xauc": "XAUC", "predicted_to_observed": "predicted / observed", "calibration_error": "ECE"}
# Settings that `provenance` always states.
CHIEF = {"embedding_size", "hidden", "dropout", "history_length", "epochs", "patience", "batch_size", "learning_rate"}


@dataclass(frozen=True)
class Measurement:
    """How good the ranker of one arm and one seed is."""

    auc: float  # of the test split, as are GAUC and log loss
    gauc: float
    log_loss: float
    summary: TrainingSummary  # of its training, on the validation split
    parameters: int
    examples: tuple[int, int, int]  # train, validation, test
    goals: dict[str, dict[str, float]] = field(default_factory=dict)  # goal -> `metrics.label_metrics`, of the test split


@dataclass(frozen=True)
class ArmRun:
    """One arm of a comparison, trained with one seed."""

    arm: str
    seed: int
    measured: Measurement | None
    reason: str = ""  # why it could not be measured


@dataclass(frozen=True)
class ArmSummary:
    """One arm over all its seeds."""

    arm: str
    metrics: dict[str, tuple[float, float]]  # mean and standard deviation of each
    examples_per_s: float
    parameters: int


def summaries_of(runs: list[ArmRun]) -> list[ArmSummary]:
    """The arms for which at least one seed could be measured, in the order of the runs."""
    by_arm: dict[str, list[Measurement]] = {}
    for run in runs:
        if run.measured:
            by_arm.setdefault(run.arm, []).append(run.measured)
    return [
        ArmSummary(
            arm,
            {name: _mean_and_deviation([getattr(one, name) for one in found]) for name in METRICS},
            mean(one.summary.examples_per_s for one in found),
            found[0].parameters,
        )
        for arm, found in by_arm.items()
    ]


def table(runs: list[ArmRun], popularity: dict[str, dict[str, float]]) -> str:
    """A table in Markdown: a row for each arm, the best mean of each column in bold, and a row for each kind of popularity.

    Below it are the arms that do not beat popularity, and the runs that failed.
    """
    arms = summaries_of(runs)
    best = {name: (min if name == "log_loss" else max)(arm.metrics[name][0] for arm in arms) for name in METRICS}
    lines = [f"| | {' | '.join(METRICS.values())} | examples/s | parameters |", f"|---|{'---|' * (len(METRICS) + 2)}"]
    for arm in arms:
        cells = [_cell(arm.metrics[name], bold=arm.metrics[name][0] == best[name]) for name in METRICS]
        lines.append(f"| {arm.arm} | {' | '.join(cells)} | {arm.examples_per_s:,.0f} | {arm.parameters:,} |")
    measured = {arm.arm for arm in arms}
    for name in dict.fromkeys(run.arm for run in runs):
        if name not in measured:
            lines.append(f"| {name} {'| - ' * (len(METRICS) + 2)}|")
    for name, metrics in popularity.items():
        cells = [_short(metrics[metric]) if isfinite(metrics[metric]) else "-" for metric in METRICS]
        lines.append(f"| {name} | {' | '.join(cells)} | - | - |")
    if worse := [sentence for arm in arms if (sentence := _not_better(arm, popularity))]:
        lines += ["", *worse]
    failed = [f"- {run.arm}, seed {run.seed}: {run.reason}" for run in runs if not run.measured]
    return "\n".join([*lines, "", *(["Not measured:", "", *failed, ""] if failed else [])])


def goals_table(runs: list[ArmRun]) -> str:
    """A table in Markdown of each goal by each arm that has it, the best AUC or XAUC in bold; empty where no arm has goals."""
    measured = [(run.arm, run.measured.goals) for run in runs if run.measured]
    goals = dict.fromkeys(goal for _, found in measured for goal in found)
    lines = [f"| goal | | {' | '.join(OF_GOALS.values())} |", f"|---|---|{'---|' * len(OF_GOALS)}"]
    for goal in goals:
        by_arm: dict[str, list[dict[str, float]]] = {}
        for arm, found in measured:
            if goal in found:
                by_arm.setdefault(arm, []).append(found[goal])
        rows = {arm: {name: _over_seeds(found, name) for name in OF_GOALS} for arm, found in by_arm.items()}
        best = {name: max((value[0] for row in rows.values() if (value := row[name])), default=None) for name in ("auc", "xauc")}
        for arm, row in rows.items():
            cells = [_cell(value, bold=value[0] == best.get(name)) if value else "-" for name, value in row.items()]
            lines.append(f"| {goal} | {arm} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""]) if goals else ""


def provenance(config: Config, runs: list[ArmRun]) -> str:
    """How the table was made, as a line of Markdown. It states the chief settings and those that differ from the defaults."""
    train, validation, test = next(run.measured.examples for run in runs if run.measured)
    stated = {name: _stated(getattr(config, name)) for name in ("split", "ranker", "training")}
    sections = "; ".join(f"{name}: {json.dumps(values)}" for name, values in stated.items() if values)
    seeds = ", ".join(map(str, config.comparison.seeds))
    return (
        f"`rayrec compare`, {time.strftime('%Y-%m-%d')}, rayrec {__version__}, {os.cpu_count()} CPU cores; data set "
        f"`{config.dataset.kind}`: {train:,} impressions to train, {validation:,} to validate, {test:,} to test. Mean ± standard "
        f"deviation over the seeds {seeds}, on the test split. `{sections}`"
    )


def picture(runs: list[ArmRun]) -> bytes:
    """A PNG with AUC and log loss of each arm: a point for each seed and a line at their mean."""
    arms = summaries_of(runs)
    figure = Figure(figsize=(10, 1 + 0.32 * len(arms)), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("auc", "log_loss"), strict=True):
        for y, arm in enumerate(arms):
            values = [getattr(run.measured, name) for run in runs if run.measured and run.arm == arm.arm]
            axes.scatter(values, [y] * len(values), s=22, alpha=0.6, linewidths=0)
            axes.plot([arm.metrics[name][0]] * 2, [y - 0.3, y + 0.3], color="black", linewidth=1.5)
        axes.set(xlabel=f"{METRICS[name]} of the test split", yticks=range(len(arms)), yticklabels=[plain(arm.arm) for arm in arms])
        axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    return file.getvalue()


def _stated(section: Section) -> dict[str, Any]:
    unusual = section.model_dump(mode="json", exclude_defaults=True)
    return {name: unusual.get(name, value) for name, value in dump(section).items() if name in CHIEF or name in unusual}


def _not_better(arm: ArmSummary, popularity: dict[str, dict[str, float]]) -> str:
    """What popularity alone does better than an arm, as a sentence; empty where there is nothing."""
    found = []
    for metric, title in METRICS.items():
        name, plain = strongest(popularity, metric)
        value = arm.metrics[metric][0]
        if value > plain if metric == "log_loss" else value < plain:
            found.append(f"{title} {_short(value)} against {_short(plain)} ({name})")
    return f"- {arm.arm} does not beat popularity: {', '.join(found)}." if found else ""


def _over_seeds(found: list[dict[str, float]], name: str) -> tuple[float, float] | None:
    return _mean_and_deviation([metrics[name] for metrics in found]) if all(name in metrics for metrics in found) else None


def _mean_and_deviation(values: list[float]) -> tuple[float, float]:
    """The deviation of a single value is NaN."""
    return mean(values), stdev(values) if len(values) > 1 else float("nan")


def _cell(value: tuple[float, float], bold: bool) -> str:
    middle, deviation = value
    text = _short(middle)
    return (f"**{text}**" if bold else text) + (f" ± {_short(deviation)}" if deviation == deviation else "")


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")
