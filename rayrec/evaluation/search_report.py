"""Draws what a search found: values against quality, the embedding size, and what quality costs."""

import io
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from rayrec.config import Config, Domain, Span, Tuning
from rayrec.evaluation.plotting import plain
from rayrec.evaluation.trials import TrainingSummary, Trial, ranked, value_text

SIZE, MODEL = "ranker.embedding_size", "ranker.model"


def pictures(config: Config, trials: list[Trial]) -> dict[str, bytes]:
    """The pictures as PNGs, by file name."""
    scored = [trial for trial in trials if trial.summary]
    drawn = {"parallel_coordinates.png": parallel_coordinates(config.tuning, scored), "cost.png": cost(config, scored)}
    if SIZE in config.tuning.space:
        drawn["embedding_size.png"] = by_embedding_size(config, scored)
    return drawn


def by_embedding_size(config: Config, trials: list[Trial]) -> bytes:
    """AUC and log loss of the best trial of each model and size, with one line for each model.

    Hasama & Li, "Attention-based Multimodal Feature Representation Model for Micro-video Recommendation", Figure 4.
    """
    best: dict[str, dict[int, TrainingSummary]] = {}
    for trial in reversed(ranked(trials, config.tuning.metric)):
        if trial.summary:
            best.setdefault(_model(config, trial), {})[trial.values[SIZE]] = trial.summary
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for model, summaries in sorted(best.items()):
        sizes = sorted(summaries)
        left.plot(sizes, [summaries[size].auc for size in sizes], marker="o", label=plain(model))
        right.plot(sizes, [summaries[size].log_loss for size in sizes], marker="o", label=plain(model))
    sizes = sorted({size for summaries in best.values() for size in summaries})
    for axes, name in ((left, "validation AUC"), (right, "validation log loss")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set(xlabel="embedding size", ylabel=name)
    left.legend()
    return _png(figure)


def parallel_coordinates(tuning: Tuning, trials: list[Trial]) -> bytes:
    """A line for each trial through its values, coloured by its AUC; dashed for a trial that failed or was stopped."""
    keys = list(tuning.space)
    figure = Figure(figsize=(max(7, 1.9 * (len(keys) + 1)), 4), layout="constrained")
    axes = figure.subplots()
    aucs = np.array([trial.summary.auc for trial in trials if trial.summary])
    scale, colours = Normalize(aucs.min(), aucs.max()), colormaps["viridis"]
    for trial, auc in sorted(zip(trials, aucs, strict=True), key=lambda pair: pair[1]):
        heights = [*(_height(tuning.space[key], trial.values[key]) for key in keys), float(scale(auc))]
        line = "-" if trial.status == "finished" else "--"
        axes.plot(range(len(heights)), heights, line, color=colours(scale(auc)), linewidth=1.2)
    for x, key in enumerate(keys):
        domain = tuning.space[key]
        ends = [domain.low, domain.high] if isinstance(domain, Span) else domain
        _vertical_axis(axes, x, [(_height(domain, value), value_text(value)) for value in ends])
    _vertical_axis(axes, len(keys), [(0.0, f"{aucs.min():.4f}"), (1.0, f"{aucs.max():.4f}")])
    axes.set_xticks(range(len(keys) + 1), [*(key.replace(".", ".\n", 1) for key in keys), "validation\nAUC"])
    axes.set(yticks=[], ylim=(-0.06, 1.06), xlim=(-0.2, len(keys) + 0.5))
    axes.spines[:].set_visible(False)
    return _png(figure)


def cost(config: Config, trials: list[Trial]) -> bytes:
    """Quality against its cost: a point for each trial, a colour for each model."""
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    costs = {
        "seconds of training": lambda trial: trial.summary.seconds,
        "examples per second": lambda trial: trial.summary.examples_per_s,
        "parameters": lambda trial: trial.parameters,
    }
    panels = figure.subplots(1, len(costs), sharey=True)
    for axes, (name, of) in zip(panels, costs.items(), strict=True):
        for model in sorted({_model(config, trial) for trial in trials}):
            shown = [trial for trial in trials if _model(config, trial) == model and trial.summary]
            axes.scatter(
                [of(trial) for trial in shown], [trial.summary.auc for trial in shown if trial.summary], s=24, label=plain(model)
            )
        axes.set(xlabel=name)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_ylabel("validation AUC")
    panels[0].legend()
    return _png(figure)


def _model(config: Config, trial: Trial) -> str:
    return str(trial.values.get(MODEL, config.ranker.model))


def _height(domain: Domain, value: Any) -> float:
    """The height of a value between the ends of its axis, 0 to 1."""
    if isinstance(domain, Span):
        low, high, at = (np.log(v) if domain.log else v for v in (domain.low, domain.high, value))
        return float((at - low) / (high - low))
    return domain.index(value) / (len(domain) - 1) if len(domain) > 1 else 0.5


def _vertical_axis(axes: Axes, x: int, marks: list[tuple[float, str]]) -> None:
    axes.axvline(x, color="grey", linewidth=0.8, zorder=0)
    for height, text in marks:
        axes.text(x + 0.03, height, plain(text), fontsize=8, va="center")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    return file.getvalue()
