"""What a replay found: as a table in Markdown, and as a picture."""

import io
from dataclasses import dataclass
from statistics import mean, stdev

from matplotlib.figure import Figure

from rayrec.evaluation.plotting import plain
from rayrec.evaluation.replay import ReplayedDay

COLOURS, STYLES = 10, ("-", "--", ":")  # of lines
METRICS = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss"}


@dataclass(frozen=True)
class ReplayRun:
    """One arm, replayed with one seed."""

    arm: str
    seed: int
    days: list[ReplayedDay]  # none where it could not be replayed
    reason: str = ""  # why not

    def mean(self, metric: str) -> float:
        """The mean over the days, each weighing as much as its impressions."""
        total = sum(day.impressions for day in self.days)
        return sum(getattr(day, metric) * day.impressions for day in self.days) / total


def by_arm(runs: list[ReplayRun]) -> dict[str, list[ReplayRun]]:
    """The runs of each arm that could be replayed, in the order of the runs."""
    found: dict[str, list[ReplayRun]] = {}
    for run in runs:
        if run.days:
            found.setdefault(run.arm, []).append(run)
    return found


def table(runs: list[ReplayRun]) -> str:
    """A table in Markdown: for each arm the AUC of each day, and the mean of each metric over the days, with the best in bold.

    Below it are the runs that failed.
    """
    arms = by_arm(runs)
    dates = [day.day for day in next(iter(arms.values()))[0].days]
    best = {name: (min if name == "log_loss" else max)(_mean(found, name) for found in arms.values()) for name in METRICS}
    lines = [f"| | {' | '.join(f'AUC {date}' for date in dates)} | {' | '.join(METRICS.values())} |"]
    lines.append(f"|---|{'---|' * (len(dates) + len(METRICS))}")
    for arm, found in arms.items():
        days = [_short(mean(run.days[number].auc for run in found)) for number in range(len(dates))]
        means = [_cell([run.mean(name) for run in found], _mean(found, name) == best[name]) for name in METRICS]
        lines.append(f"| {arm} | {' | '.join([*days, *means])} |")
    failed = [f"- {run.arm}, seed {run.seed}: {run.reason}" for run in runs if not run.days]
    return "\n".join([*lines, *(["", "Not replayed:", "", *failed] if failed else []), ""])


def picture(runs: list[ReplayRun]) -> bytes:
    """A PNG of the AUC by day, with a line for each arm and a band from its worst to its best seed."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (arm, found) in enumerate(by_arm(runs).items()):
        style = STYLES[number // COLOURS % len(STYLES)]  # beside the colours, which repeat
        dates = [day.day[5:] for day in found[0].days]
        seeds = [[run.days[day].auc for run in found] for day in range(len(dates))]
        (line,) = axes.plot(dates, [mean(values) for values in seeds], marker="o", linestyle=style, label=plain(arm))
        axes.fill_between(dates, [min(v) for v in seeds], [max(v) for v in seeds], color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="day that was predicted", ylabel="AUC")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    return file.getvalue()


def _mean(runs: list[ReplayRun], metric: str) -> float:
    return mean(run.mean(metric) for run in runs)


def _cell(values: list[float], bold: bool) -> str:
    text = _short(mean(values))
    return (f"**{text}**" if bold else text) + (f" ± {_short(stdev(values))}" if len(values) > 1 else "")


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")
