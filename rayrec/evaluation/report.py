"""The report of `evaluate`: its numbers and its pictures."""

import io
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from rayrec.evaluation.breakdown import PARTS


@dataclass(frozen=True)
class Report:
    """What `evaluate` measured, by the name of the model.

    `clicks`: AUC, GAUC, log loss, accuracy, calibration. `pages`: Recall@k and NDCG@k of the served page and, if the truth is
    known, `expected_ctr`, the mean true click probability of the page's videos. `by_history`, `without_modality` and `reliability`
    are measured for the trained rankers only: metrics by the number of clicks known before the impression; metrics when all videos
    lack a modality at scoring time; predicted and observed CTR of bins of impressions.
    """

    k: int
    impressions: int
    test_users: int
    candidate_recall: float  # share of the relevant videos that recall put among the candidates
    clicks: dict[str, dict[str, float]] = field(default_factory=dict)
    pages: dict[str, dict[str, float]] = field(default_factory=dict)
    by_history: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    without_modality: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    reliability: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def overview_picture(report: Report) -> bytes:
    """A PNG with a bar for each model: AUC on the left, NDCG@k on the right."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, values, title in (
        (left, {name: metrics["auc"] for name, metrics in report.clicks.items()}, "AUC of clicks"),
        (right, {name: metrics["ndcg"] for name, metrics in report.pages.items()}, f"NDCG@{report.k} of the page"),
    ):
        bars = axes.barh(list(values), list(values.values()))
        axes.bar_label(bars, fmt="%.4f", padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.set_title(title)
    left.axvline(0.5, color="grey", linewidth=1)
    return _png(figure)


def breakdown_picture(report: Report) -> bytes:
    """A PNG with a line for each trained ranker: AUC by history length on the left, the reliability curve on the right."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, parts in report.by_history.items():
        left.plot([PARTS.index(part) for part in parts], [metrics["auc"] for metrics in parts.values()], marker="o", label=name)
        right.plot(report.reliability[name]["predicted"], report.reliability[name]["observed"], marker="o", label=name)
    left.set_xticks(range(len(PARTS)), PARTS)
    left.set(xlabel="clicks known before the impression", ylabel="AUC")
    right.axline((0, 0), slope=1, color="grey", linewidth=1)
    right.set(xlabel="predicted CTR", ylabel="observed CTR", title="a tenth of the impressions per point")
    right.legend()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    image = io.BytesIO()
    figure.savefig(image, dpi=120)
    return image.getvalue()
