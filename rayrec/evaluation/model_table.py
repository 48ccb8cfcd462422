"""What a comparison of models measured: a table in Markdown with a row for each arm, sentences about it, and a picture."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from rayrec.evaluation.plotting import plain
from rayrec.evaluation.trials import in_words

LOWER_IS_BETTER = {"rmse", "mae"}
NO_RANK = {"coverage", "novelty"}  # facts about lists, of which neither much nor little is good by itself


@dataclass(frozen=True)
class Measured:
    """One model, fitted with one seed."""

    metrics: dict[str, float]
    seconds: float  # of the fitting


@dataclass(frozen=True)
class ModelRun:
    """One arm of a comparison with one seed."""

    arm: str
    seed: int
    measured: Measured | None
    reason: str = ""  # why it could not be measured
    chosen: dict[str, Any] = field(default_factory=dict)  # key -> the value that was best on validation


def model_table(runs: list[ModelRun], columns: Mapping[str, str]) -> str:
    """A table in Markdown of these metrics (name -> heading): mean and deviation over the seeds, the best mean in bold.

    Below it is what was chosen on validation, and the runs that failed.
    """
    found = by_arm(runs)
    best = {name: _best(name, [mean(_values(each, name)) for each in found.values()]) for name in columns}
    lines = [f"| | {' | '.join(columns.values())} | seeds | seconds |", f"|---|{'---|' * (len(columns) + 2)}"]
    for arm in dict.fromkeys(run.arm for run in runs):
        if arm not in found:
            lines.append(f"| {arm} {'| - ' * (len(columns) + 2)}|")
            continue
        cells = [_cell(_values(found[arm], name), best[name]) for name in columns]
        lines.append(f"| {arm} | {' | '.join(cells)} | {len(found[arm])} | {mean(one.seconds for one in found[arm]):,.1f} |")
    failed = [f"- {run.arm}, seed {run.seed}: {run.reason}" for run in runs if not run.measured]
    chosen = {run.arm: run.chosen for run in runs if run.chosen}
    words = [f"- {arm}: `{in_words(values)}`" for arm, values in chosen.items()]
    parts = [lines, ["Chosen on validation:", "", *words] if words else [], ["Not measured:", "", *failed] if failed else []]
    return "\n".join("\n".join([*part, ""]) for part in parts if part)


def not_better(runs: list[ModelRun], baseline: str, columns: Mapping[str, str]) -> list[str]:
    """A sentence for each arm that does not beat the baseline by every metric that ranks models."""
    found, sentences = by_arm(runs), []
    for arm in found.keys() - {baseline} if baseline in found else ():
        worse = []
        for name in columns:
            ours, theirs = mean(_values(found[arm], name)), mean(_values(found[baseline], name))
            if name.split("@")[0] not in NO_RANK and _best(name, [ours, theirs]) == theirs:
                worse.append(f"{columns[name]} ({_short(ours)} against {_short(theirs)})")
        if worse:
            sentences.append(f"{arm} does not beat {baseline} by {', '.join(worse)}.")
    return sorted(sentences)


def picture(runs: list[ModelRun], columns: Mapping[str, str]) -> bytes:
    """A PNG of these metrics (name -> heading) of each arm: a point for each seed and a line at their mean."""
    found = by_arm(runs)
    figure = Figure(figsize=(10, 1 + 0.32 * len(found)), layout="constrained")
    for axes, (name, heading) in zip(figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns.items(), strict=True):
        for y, measured in enumerate(found.values()):
            values = _values(measured, name)
            axes.scatter(values, [y] * len(values), s=22, alpha=0.6, linewidths=0)
            axes.plot([mean(values)] * 2, [y - 0.3, y + 0.3], color="black", linewidth=1.5)
        axes.set(xlabel=heading, yticks=range(len(found)), yticklabels=[plain(arm) for arm in found])
        axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    return file.getvalue()


def by_arm(runs: list[ModelRun]) -> dict[str, list[Measured]]:
    """What was measured of each arm; arms of which nothing was are not there."""
    found: dict[str, list[Measured]] = {}
    for run in runs:
        if run.measured:
            found.setdefault(run.arm, []).append(run.measured)
    return found


def _values(found: list[Measured], name: str) -> list[float]:
    return [one.metrics[name] for one in found]


def _best(name: str, values: list[float]) -> float | None:
    """The best of them; None for a metric that ranks nothing."""
    metric = name.split("@")[0]
    return None if metric in NO_RANK else (min if metric in LOWER_IS_BETTER else max)(values)


def _cell(values: list[float], best: float | None) -> str:
    middle = mean(values)
    text = _short(middle)
    deviation = f" ± {_short(stdev(values))}" if len(values) > 1 else ""
    return (f"**{text}**" if middle == best else text) + deviation


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0") if abs(value) < 10 else f"{value:.1f}"
