"""What a search found: its trials as a table, the best one as a config, and pictures."""

import csv
import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import yaml
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from rayrec.config import Config, Domain, Span, Tuning, with_values
from rayrec.ranking.variants import TrainingSummary

SIZE, MODEL = "ranker.embedding_size", "ranker.model"


@dataclass(frozen=True)
class Trial:
    number: int  # from 1, in the order of their start
    values: dict[str, Any]  # key -> what the trial had in place of the config's
    status: str  # finished, stopped (by ASHA) or failed
    reason: str  # why, unless it finished
    summary: TrainingSummary | None  # None where no epoch was finished
    parameters: int | None


def ranked(trials: list[Trial], metric: str) -> list[Trial]:
    """The best first; those that failed come last."""

    def place(trial: Trial) -> tuple[bool, float]:
        if trial.status == "failed" or trial.summary is None:
            return True, 0.0
        return False, trial.summary.log_loss if metric == "log_loss" else -trial.summary.auc

    return sorted(trials, key=place)


def in_words(values: dict[str, Any]) -> str:
    """A trial's values, such as `model=fm hidden=[64, 32]`."""
    return " ".join(f"{key.split('.', 1)[1]}={_text(value)}" for key, value in values.items())


def trials_csv(trials: list[Trial], keys: list[str]) -> bytes:
    measured = list(TrainingSummary.__dataclass_fields__)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["trial", *keys, "status", "reason", *measured, "parameters"])
    for trial in trials:
        summary = [getattr(trial.summary, name) if trial.summary else None for name in measured]
        values = [value if isinstance(value, str) else json.dumps(value) for value in (trial.values[key] for key in keys)]
        writer.writerow([trial.number, *values, trial.status, trial.reason, *summary, trial.parameters])
    return file.getvalue().encode()


def trials_json(trials: list[Trial]) -> bytes:
    return json.dumps([asdict(trial) for trial in trials], indent=1).encode()


def best_yaml(config: Config, best: Trial, trials: int) -> bytes:
    """The config with the values of the best trial, for `rayrec train`. Like any other it states only what is not the default."""
    assert best.summary is not None
    found = with_values(config, best.values)
    scores = f"validation AUC {best.summary.auc:.4f}, log loss {best.summary.log_loss:.4f}"
    head = f"# Trial {best.number}, the best of {trials}: {scores}.\n"
    tree = found.model_dump(mode="json", exclude_defaults=True, exclude={"tuning", "comparison"})
    return (head + yaml.safe_dump(tree, sort_keys=False, default_flow_style=None)).encode()


def pictures(config: Config, trials: list[Trial]) -> dict[str, bytes]:
    """PNGs by the name of their file."""
    scored = [trial for trial in trials if trial.summary]
    drawn = {"parallel_coordinates.png": parallel_coordinates(config.tuning, scored), "cost.png": cost(config, scored)}
    if SIZE in config.tuning.space:
        drawn["embedding_size.png"] = by_embedding_size(config, scored)
    return drawn


def by_embedding_size(config: Config, trials: list[Trial]) -> bytes:
    """AUC and log loss of the best trial of each model and size, a line for each model (SOURCES B, Figure 4)."""
    best: dict[str, dict[int, TrainingSummary]] = {}
    for trial in reversed(ranked(trials, config.tuning.metric)):
        if trial.summary:
            best.setdefault(_model(config, trial), {})[trial.values[SIZE]] = trial.summary
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for model, courses in sorted(best.items()):
        sizes = sorted(courses)
        left.plot(sizes, [courses[size].auc for size in sizes], marker="o", label=model)
        right.plot(sizes, [courses[size].log_loss for size in sizes], marker="o", label=model)
    sizes = sorted({size for courses in best.values() for size in courses})
    for axes, name in ((left, "validation AUC"), (right, "validation log loss")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set(xlabel="embedding size", ylabel=name)
    left.legend()
    return _png(figure)


def parallel_coordinates(tuning: Tuning, trials: list[Trial]) -> bytes:
    """A line for each trial through its values, coloured by its AUC; dashed where it failed or was stopped."""
    keys = list(tuning.space)
    figure = Figure(figsize=(max(7, 1.9 * (len(keys) + 1)), 4), layout="constrained")
    axes = figure.subplots()
    aucs = np.array([trial.summary.auc for trial in trials if trial.summary])
    scale, colours = Normalize(aucs.min(), aucs.max()), colormaps["viridis"]
    for trial, auc in sorted(zip(trials, aucs, strict=True), key=lambda pair: pair[1]):
        heights = [*(_height(tuning.space[key], trial.values[key]) for key in keys), float(scale(auc))]
        line = "-" if trial.status == "finished" else "--"
        axes.plot(range(len(heights)), heights, line, color=colours(scale(auc)), linewidth=1.2)
    for place, key in enumerate(keys):
        domain = tuning.space[key]
        ends = [domain.low, domain.high] if isinstance(domain, Span) else domain
        _upright(axes, place, [(_height(domain, value), _text(value)) for value in ends])
    _upright(axes, len(keys), [(0.0, f"{aucs.min():.4f}"), (1.0, f"{aucs.max():.4f}")])
    axes.set_xticks(range(len(keys) + 1), [*(key.replace(".", ".\n", 1) for key in keys), "validation\nAUC"])
    axes.set(yticks=[], ylim=(-0.06, 1.06), xlim=(-0.2, len(keys) + 0.5))
    axes.spines[:].set_visible(False)
    return _png(figure)


def cost(config: Config, trials: list[Trial]) -> bytes:
    """Quality against what it costs: a point for each trial, a colour for each model."""
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    costs = {
        "seconds of training": lambda trial: trial.summary.seconds,
        "examples a second": lambda trial: trial.summary.examples_per_s,
        "parameters": lambda trial: trial.parameters,
    }
    panels = figure.subplots(1, len(costs), sharey=True)
    for axes, (name, of) in zip(panels, costs.items(), strict=True):
        for model in sorted({_model(config, trial) for trial in trials}):
            shown = [trial for trial in trials if _model(config, trial) == model and trial.summary]
            axes.scatter([of(trial) for trial in shown], [trial.summary.auc for trial in shown if trial.summary], s=24, label=model)
        axes.set(xlabel=name)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_ylabel("validation AUC")
    panels[0].legend()
    return _png(figure)


def _model(config: Config, trial: Trial) -> str:
    return str(trial.values.get(MODEL, config.ranker.model))


def _height(domain: Domain, value: Any) -> float:
    """Where a value stands between the ends of its axis, 0 to 1."""
    if isinstance(domain, Span):
        low, high, at = (np.log(v) if domain.log else v for v in (domain.low, domain.high, value))
        return float((at - low) / (high - low))
    return domain.index(value) / (len(domain) - 1) if len(domain) > 1 else 0.5


def _upright(axes: Axes, place: int, marks: list[tuple[float, str]]) -> None:
    axes.axvline(place, color="grey", linewidth=0.8, zorder=0)
    for height, text in marks:
        axes.text(place + 0.03, height, text, fontsize=8, va="center")


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    return file.getvalue()
