"""The stage `evaluate`: measures clicks and pages on the test split, beside popularity and the best that is possible."""

import asyncio
import json
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from rayrec.config import settings_of
from rayrec.data.history import HistoryGather
from rayrec.data.loading import MAY_READ, RANKER, RANKER_WITHOUT_TOPICS, READS, RankingData, ranking_data
from rayrec.evaluation.breakdown import by_history, history_lengths, without_modality
from rayrec.evaluation.pages import (
    Counters,
    TestUser,
    find_test_users,
    page_metrics,
    popularity,
    ranked_pages,
    recommended_pages,
)
from rayrec.evaluation.report import Report, breakdown_picture, overview_picture
from rayrec.ranking.fitting import predict
from rayrec.ranking.scorer import Scorer
from rayrec.recall import sources
from rayrec.recall.items import ItemData
from rayrec.tables import TRUTH
from rayrec.training.metrics import Reliability, basic_metrics, click_metrics, reliability
from rayrec.workspace.stage import Stage, StageRun

WITH_TOPICS, WITHOUT_TOPICS, POPULARITY, BEST = "with topics", "without topics", "popularity", "best possible"


def evaluate(run: StageRun) -> None:
    """The work of the stage: writes `predictions`, report.json and two pictures."""
    config, k = run.config, run.config.evaluation.k
    sources.check(config.recall)
    rankers = _trained_rankers(run)
    data = rankers[0].data
    counters = Counters.of(data)
    test_users = find_test_users(data, _published_at(data.items.ids, run.read("catalog")))

    probabilities = {ranker.name: _probabilities(ranker.scorer, ranker.data) for ranker in rankers}
    probabilities[POPULARITY] = popularity(counters)[data.test.item]
    pages, candidate_recalls = {}, []
    for ranker in rankers:
        found = recommended_pages(
            test_users, ranker.scorer, ranker.items, counters, config.recall, config.selection, k, config.seed
        )
        pages[ranker.name], candidate_recall = asyncio.run(found)
        candidate_recalls.append(candidate_recall)
    pages[POPULARITY] = ranked_pages(test_users, lambda user: popularity(counters), k)
    preferences = _preferences(run, data)
    if preferences is not None:
        probabilities[BEST] = _true_probabilities(run.read("truth_clicks"), data.test_log)
        pages[BEST] = ranked_pages(test_users, lambda user: np.nan_to_num(preferences[user.user]), k)

    users, clicked, lengths = data.test.user, data.test.clicked, history_lengths(data, data.test)
    report = Report(
        k=k,
        impressions=len(data.test),
        test_users=len(test_users),
        candidate_recall=candidate_recalls[0],
        clicks={name: click_metrics(users, clicked, probability) for name, probability in probabilities.items()},
        pages={
            name: page_metrics(test_users, page, k) | _expected_ctr(test_users, page, preferences) for name, page in pages.items()
        },
        by_history={each.name: by_history(lengths, clicked, probabilities[each.name]) for each in rankers},
        without_modality={each.name: _without_modalities(each) for each in rankers},
        reliability={each.name: _as_lists(reliability(clicked, probabilities[each.name])) for each in rankers},
    )
    run.write(
        "predictions", pa.concat_tables([_prediction_rows(data.test_log, name, values) for name, values in probabilities.items()])
    )
    run.write_file("report.json", json.dumps(asdict(report), indent=1).encode())
    run.write_file("report.png", overview_picture(report))
    run.write_file("breakdown.png", breakdown_picture(report))
    run.count(rows_in=len(data.test), rows_out=len(data.test))


@dataclass(frozen=True)
class TrainedRanker:
    """A trained ranker, the data as it was trained on them, and the items with the topics that its recall may use."""

    name: str
    scorer: Scorer
    data: RankingData
    items: ItemData


def _trained_rankers(run: StageRun) -> list[TrainedRanker]:
    """The ranker that is served comes first, then the one without topics if `train` made it."""
    folder, found = run.input_folder("train"), []
    for name in (RANKER, RANKER_WITHOUT_TOPICS):
        if not run.fs.get_file_info(f"{folder}/{name}/ranker.json").is_file:
            continue
        scorer = Scorer.load(run.fs, f"{folder}/{name}")
        data = ranking_data(run, scorer.settings, run.config.split)
        topics = run.read_if_there("topics") if scorer.settings.topics else None
        has_topics = topics is not None and topics.num_rows > 0
        items = ItemData.of_tables(scorer.item_ids, run.read("catalog"), topics, lambda: run.read_if_there("embeddings"))
        found.append(TrainedRanker(WITH_TOPICS if has_topics else WITHOUT_TOPICS, scorer, data, items))
    return found


def _probabilities(scorer: Scorer, data: RankingData) -> np.ndarray:
    """The click probability of each impression of the test split: float32 [impressions]."""
    gather = HistoryGather(data.clicks, scorer.settings.history_length, scorer.device)
    return predict(scorer.model, data.test, gather, scorer.device)


def _without_modalities(ranker: TrainedRanker) -> dict[str, dict[str, float]]:
    scorer, clicked = ranker.scorer, ranker.data.test.clicked
    return {
        name: basic_metrics(clicked, _probabilities(without_modality(scorer, name), ranker.data))
        for name in sorted(scorer.items.vectors)
    }


def _as_lists(found: Reliability) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in found._asdict().items()}


def _published_at(item_ids: list[str], catalog: pa.Table) -> np.ndarray:
    rows = pa.compute.index_in(pa.array(item_ids, pa.string()), value_set=catalog["video_id"].combine_chunks())
    return catalog["published_at"].combine_chunks().take(rows).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def _true_probabilities(truth: pa.Table, log: pa.Table) -> np.ndarray:
    """The true click probability of each impression of the log: float32 [impressions]."""
    keys = ["request_id", "video_id"]
    numbered = log.select(keys).append_column("row", pa.array(np.arange(log.num_rows)))
    joined = numbered.join(truth, keys=keys).sort_by("row")
    return joined["click_probability"].to_numpy()


def _preferences(run: StageRun, data: RankingData) -> np.ndarray | None:
    """The true click probability of each user and item: float32 [U, I], NaN where it is not known; None without a known truth."""
    truth = run.read_if_there("truth_preferences")
    if truth is None:
        return None
    matrix = np.full((len(data.users.ids), len(data.items.ids)), np.nan, dtype=np.float32)
    matrix[data.users.rows_of(truth["user_id"]), data.items.rows_of(truth["video_id"])] = truth["click_probability"].to_numpy()
    return matrix


def _expected_ctr(test_users: list[TestUser], pages: list[np.ndarray], preferences: np.ndarray | None) -> dict[str, float]:
    if preferences is None or not test_users:
        return {}
    means = [preferences[user.user][page].mean() for user, page in zip(test_users, pages, strict=True)]
    return {"expected_ctr": float(np.nanmean(means))}


def _prediction_rows(log: pa.Table, model: str, probability: np.ndarray) -> pa.Table:
    kept = log.select(["user_id", "video_id", "shown_at", "clicked", "request_id"])
    return kept.append_column("model", pa.array([model] * log.num_rows)).append_column(
        "probability", pa.array(probability, pa.float32())
    )


# This is the only stage that may read the truth of the synthetic world.
STAGE = Stage(
    "evaluate",
    evaluate,
    reads=READS,
    may_read=(*MAY_READ, "embeddings", *TRUTH),
    after=("train",),
    writes=("predictions",),
    settings=lambda config: settings_of(config.evaluation, config.recall, config.selection),
)
