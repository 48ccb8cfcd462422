"""The stage `evaluate`: clicks and the whole road on the test split, beside popularity and the best that anyone could reach."""

import io
import json
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from rayrec.config import settings_of
from rayrec.data.examples import RankingData
from rayrec.data.history import HistoryGather
from rayrec.data.loading import MAY_READ, RANKER, RANKER_WITHOUT_TOPICS, READS, ranking_data
from rayrec.evaluation.breakdown import PARTS, by_history, history_lengths, without_modality
from rayrec.evaluation.pages import Counters, TestUser, page_metrics, popularity, ranked_pages, test_users, topic_pages
from rayrec.ranking.fitting import predict
from rayrec.ranking.scorer import Scorer
from rayrec.recall.queues import ItemTopics
from rayrec.tables import TRUTH
from rayrec.training.metrics import Reliability, basic_metrics, click_metrics, reliability
from rayrec.workspace.stage import Stage, StageRun

WITH_TOPICS, WITHOUT_TOPICS, POPULARITY, BEST = "with topics", "without topics", "popularity", "best possible"


@dataclass(frozen=True)
class Report:
    """What `evaluate` found, by model.

    `clicks`: AUC, GAUC, log loss, accuracy, calibration. `pages`: Recall@k and NDCG@k of the served page and, where the truth is
    known, `expected_ctr`, the mean true click probability of the page's videos. `by_history`, `without_modality` and `reliability`
    are of the trained rankers: metrics by the number of clicks known before the impression; metrics when a modality is missing in
    every video at scoring time; predicted and observed CTR of bins of impressions.
    """

    k: int
    impressions: int
    test_users: int
    candidate_recall: float  # share of the relevant videos that topic recall put among the candidates
    clicks: dict[str, dict[str, float]] = field(default_factory=dict)
    pages: dict[str, dict[str, float]] = field(default_factory=dict)
    by_history: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    without_modality: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    reliability: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def evaluate(run: StageRun) -> None:
    """The work of the stage: writes `predictions`, report.json and two pictures."""
    config, k = run.config, run.config.evaluation.k
    arms = _arms(run)
    data = arms[0].data
    counters = Counters.of(data)
    people = test_users(data, _published_at(data.items.ids, run.read("catalog")))

    probabilities = {arm.name: _probabilities(arm.scorer, arm.data) for arm in arms}
    probabilities[POPULARITY] = popularity(counters)[data.test.item]
    pages, candidate_recall = {}, float("nan")
    for arm in arms:
        pages[arm.name], found = topic_pages(people, arm.scorer, arm.topics, counters, config.recall, k, config.seed)
        candidate_recall = found if arm is arms[0] else candidate_recall
    pages[POPULARITY] = ranked_pages(people, lambda person: popularity(counters), k)
    preferences = _preferences(run, data)
    if preferences is not None:
        probabilities[BEST] = _true_probabilities(run.read("truth_clicks"), data.test_log)
        pages[BEST] = ranked_pages(people, lambda person: np.nan_to_num(preferences[person.user]), k)

    users, clicked, lengths = data.test.user, data.test.clicked, history_lengths(data, data.test)
    report = Report(
        k=k,
        impressions=len(data.test),
        test_users=len(people),
        candidate_recall=candidate_recall,
        clicks={name: click_metrics(users, clicked, probability) for name, probability in probabilities.items()},
        pages={name: page_metrics(people, page, k) | _expected_ctr(people, page, preferences) for name, page in pages.items()},
        by_history={arm.name: by_history(lengths, clicked, probabilities[arm.name]) for arm in arms},
        without_modality={arm.name: _without_modalities(arm) for arm in arms},
        reliability={arm.name: _as_lists(reliability(clicked, probabilities[arm.name])) for arm in arms},
    )
    run.write(
        "predictions", pa.concat_tables([_prediction_rows(data.test_log, name, values) for name, values in probabilities.items()])
    )
    run.write_file("report.json", json.dumps(asdict(report), indent=1).encode())
    run.write_file("report.png", picture(report))
    run.write_file("breakdown.png", breakdown_picture(report))
    run.count(rows_in=len(data.test), rows_out=len(data.test))


def picture(report: Report) -> bytes:
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


@dataclass(frozen=True)
class Arm:
    """A trained ranker, the data as it sees them, and the topics that its recall may use."""

    name: str
    scorer: Scorer
    data: RankingData
    topics: ItemTopics


def _arms(run: StageRun) -> list[Arm]:
    """The ranker that is served first, then the one without topics where `train` made it."""
    folder, arms = run.input_folder("train"), []
    for name in (RANKER, RANKER_WITHOUT_TOPICS):
        if not run.fs.get_file_info(f"{folder}/{name}/ranker.json").is_file:
            continue
        scorer = Scorer.load(run.fs, f"{folder}/{name}")
        data = ranking_data(run, scorer.settings, run.config.split)
        topics = run.read_if_there("topics") if scorer.settings.topics else None
        has_topics = topics is not None and topics.num_rows > 0
        arms.append(Arm(WITH_TOPICS if has_topics else WITHOUT_TOPICS, scorer, data, ItemTopics.of(scorer.item_ids, topics)))
    return arms


def _probabilities(scorer: Scorer, data: RankingData) -> np.ndarray:
    """The click probability of each impression of the test split: float32 [impressions]."""
    gather = HistoryGather(data.clicks, scorer.settings.history_length, scorer.device)
    return predict(scorer.model, data.test, gather, scorer.device)


def _without_modalities(arm: Arm) -> dict[str, dict[str, float]]:
    scorer, clicked = arm.scorer, arm.data.test.clicked
    return {
        name: basic_metrics(clicked, _probabilities(without_modality(scorer, name), arm.data))
        for name in sorted(scorer.items.vectors)
    }


def _as_lists(found: Reliability) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in found._asdict().items()}


def _published_at(item_ids: list[str], catalog: pa.Table) -> np.ndarray:
    rows = pa.compute.index_in(pa.array(item_ids, pa.string()), value_set=catalog["video_id"].combine_chunks())
    return catalog["published_at"].combine_chunks().take(rows).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def _true_probabilities(truth: pa.Table, log: pa.Table) -> np.ndarray:
    """The probability that made each impression of the log: float32 [impressions]."""
    keys = ["request_id", "video_id"]
    numbered = log.select(keys).append_column("row", pa.array(np.arange(log.num_rows)))
    joined = numbered.join(truth, keys=keys).sort_by("row")
    return joined["click_probability"].to_numpy()


def _preferences(run: StageRun, data: RankingData) -> np.ndarray | None:
    """The true click probability of every user and item: float32 [U, I], NaN where the truth says nothing; None without a truth."""
    truth = run.read_if_there("truth_preferences")
    if truth is None:
        return None
    matrix = np.full((len(data.users.ids), len(data.items.ids)), np.nan, dtype=np.float32)
    matrix[data.users.rows_of(truth["user_id"]), data.items.rows_of(truth["video_id"])] = truth["click_probability"].to_numpy()
    return matrix


def _expected_ctr(people: list[TestUser], pages: list[np.ndarray], preferences: np.ndarray | None) -> dict[str, float]:
    if preferences is None or not people:
        return {}
    return {
        "expected_ctr": float(
            np.nanmean([preferences[person.user][page].mean() for person, page in zip(people, pages, strict=True)])
        )
    }


def _prediction_rows(log: pa.Table, model: str, probability: np.ndarray) -> pa.Table:
    kept = log.select(["user_id", "video_id", "shown_at", "clicked", "request_id"])
    return kept.append_column("model", pa.array([model] * log.num_rows)).append_column(
        "probability", pa.array(probability, pa.float32())
    )


# The only stage that may look at the truth of the synthetic world.
STAGE = Stage(
    "evaluate",
    evaluate,
    reads=READS,
    may_read=(*MAY_READ, *TRUTH),
    after=("train",),
    writes=("predictions",),
    settings=lambda config: settings_of(config.evaluation, config.recall, config.selection),
)
