"""The report of `evaluate`: its numbers and its pictures."""

import io
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from rayrec.data.split import IN_WORDS, SplitBy
from rayrec.evaluation.breakdown import PARTS
from rayrec.evaluation.popularity import strongest


@dataclass(frozen=True)
class Report:
    """What `evaluate` measured, by the name of the model.

    `clicks`: AUC, GAUC, log loss, accuracy, calibration. `pages`: Recall@k and NDCG@k of the served page and, if the truth is
    known, what is expected of a video of the page in the mean: `expected_ctr`, the click probability, `expected_watch_s`, the
    seconds watched, and `expected_likes`, the probability of a like. `by_history`, `without_modality` and `reliability` are
    measured for the trained rankers only: metrics by the number of clicks known before the impression; metrics when all videos lack
    a modality at scoring time; predicted and observed CTR of bins of impressions. So is `by_novelty`: metrics of the videos that
    training has seen, of the others, which are scored from their content, and of the former as if they were new, too.
    So many negatives were `drawn` for the impressions of a log of clicks alone, and measured with them. `warnings` are sentences
    for the user.
    """

    k: int
    impressions: int  # of the test split
    test_users: int
    candidate_recall: float  # share of the relevant videos that recall put among the candidates
    clicks: dict[str, dict[str, float]] = field(default_factory=dict)
    pages: dict[str, dict[str, float]] = field(default_factory=dict)
    by_history: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    without_modality: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    by_novelty: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    reliability: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    recall_by_source: dict[str, dict[str, float]] = field(default_factory=dict)  # as `candidates.SourceRecall` says
    goals: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)  # ranker -> goal -> `metrics.label_metrics`
    warnings: list[str] = field(default_factory=list)
    drawn: int = 0


def split_warnings(by: SplitBy) -> list[str]:
    """A sentence where the test split does not follow the training split in time."""
    if by == "time":
        return []
    return [
        f"The log was split {IN_WORDS[by]} and not by time. The figures say how well hidden clicks of users are found, and not how "
        "well the clicks of the following days are."
    ]


def drawn_warnings(drawn: int) -> list[str]:
    """A sentence where the impressions that were not clicked had to be `drawn`."""
    if not drawn:
        return []
    return [
        "The log has clicks alone, so scores are no click probabilities: they put videos in order, and say how likely a click is "
        "among the videos that were drawn for it. Log loss, accuracy and calibration are measured among these, too."
    ]


def page_warnings(pages: dict[str, dict[str, float]], served: str, k: int) -> list[str]:
    """A sentence where the page that is `served` finds less of what people click than the strongest kind of popularity alone."""
    page, found = pages[served], []
    for metric, title in (("ndcg", f"NDCG@{k}"), ("recall", f"Recall@{k}")):
        name, plain = strongest(pages, metric)
        if page[metric] < plain:  # both are NaN when there are no users
            found.append(f"{title} {page[metric]:.4f} against {plain:.4f} ({name})")
    if not found:
        return []
    return [
        f"The page ({served}) does not beat the most popular videos: {', '.join(found)}. Before you serve it, try negatives "
        "(`training.negatives`), popularity in the ranker (`ranker.popularity`) or on the page (`ranker.shown_half_life`), other "
        "sources (`recall.sources`), more candidates, or another ranker."
    ]


def click_warnings(clicks: dict[str, dict[str, float]], served: str) -> list[str]:
    """Sentences where the ranker that is `served` orders impressions no better, or fits their clicks less well, than popularity."""
    ranker, found = clicks[served], []
    below = []
    for metric, title in (("auc", "AUC"), ("gauc", "GAUC")):
        name, plain = strongest(clicks, metric)
        if ranker[metric] < plain:
            below.append(f"{title} {ranker[metric]:.4f} against {plain:.4f} ({name})")
    if below:
        found.append(
            f"The ranker ({served}) does not order impressions better than popularity: {', '.join(below)}. Try popularity in the "
            "ranker (`ranker.popularity`), another model, or a search with `rayrec tune`."
        )
    name, plain = strongest(clicks, "log_loss")
    if ranker["log_loss"] > plain:
        found.append(
            f"The probabilities of the ranker ({served}) fit the clicks less well than the click rate of each video: log loss "
            f"{ranker['log_loss']:.4f} against {plain:.4f}. Trust their order, which the AUC measures, and not their size. Where "
            "training draws negatives, they are probabilities among these. Otherwise training keeps the epoch with the best "
            "validation AUC, which may be too early for the probabilities of a small log: try a higher `training.learning_rate` or "
            "a smaller `training.batch_size`, or search with `rayrec tune` and `tuning.metric: log_loss`."
        )
    return found


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
