"""The report of `evaluate`: its numbers and its pictures."""

import io
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from rayrec.data.split import IN_WORDS, SplitBy
from rayrec.evaluation.breakdown import PARTS


@dataclass(frozen=True)
class Report:
    """What `evaluate` measured, by the name of the model.

    `clicks`: AUC, GAUC, log loss, accuracy, calibration. `pages`: Recall@k and NDCG@k of the served page and, if the truth is
    known, `expected_ctr`, the mean true click probability of the page's videos. `by_history`, `without_modality` and `reliability`
    are measured for the trained rankers only: metrics by the number of clicks known before the impression; metrics when all videos
    lack a modality at scoring time; predicted and observed CTR of bins of impressions. So is `by_novelty`: metrics of the videos
    that training has seen, of the others, which are scored from their content, and of the former as if they were new, too.
    `warnings` are sentences for the user.
    """

    k: int
    impressions: int
    test_users: int
    candidate_recall: float  # share of the relevant videos that recall put among the candidates
    clicks: dict[str, dict[str, float]] = field(default_factory=dict)
    pages: dict[str, dict[str, float]] = field(default_factory=dict)
    by_history: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    without_modality: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    by_novelty: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    reliability: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def split_warnings(by: SplitBy) -> list[str]:
    """A sentence where the test split does not follow the training split in time."""
    if by == "time":
        return []
    return [
        f"The log was split {IN_WORDS[by]} and not by time. The figures say how well hidden clicks of users are found, and not how "
        "well the clicks of the following days are."
    ]


def page_warnings(pages: dict[str, dict[str, float]], served: str, popularity: str, k: int) -> list[str]:
    """A sentence where the page that is `served` finds less of what people click than the most popular videos alone."""
    page, plain = pages[served], pages[popularity]
    if not page["ndcg"] < plain["ndcg"]:  # both are NaN when there are no users
        return []
    return [
        f"The page ({served}) is worse than the most popular videos: NDCG@{k} {page['ndcg']:.4f} against {plain['ndcg']:.4f}, "
        f"Recall@{k} {page['recall']:.4f} against {plain['recall']:.4f}. Before you serve it, try other sources "
        "(`recall.sources`), more candidates, or another ranker."
    ]


def click_warnings(clicks: dict[str, dict[str, float]], served: str, popularity: str) -> list[str]:
    """A sentence where the probabilities of the ranker that is `served` fit the clicks less well than each video's click rate."""
    ranker, plain = clicks[served], clicks[popularity]
    if not ranker["log_loss"] > plain["log_loss"]:
        return []
    return [
        f"The probabilities of the ranker ({served}) fit the clicks less well than the click rate of each video: log loss "
        f"{ranker['log_loss']:.4f} against {plain['log_loss']:.4f}. Trust their order, which the AUC measures, and not their size. "
        "Training keeps the epoch with the best validation AUC, which may be too early for the probabilities of a small log: try a "
        "higher `training.learning_rate` or a smaller `training.batch_size`, or search with `rayrec tune` and "
        "`tuning.metric: log_loss`."
    ]


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
