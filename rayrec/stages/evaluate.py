"""The stage `evaluate`: measures clicks and pages on the test split, beside popularity and the best that is possible.

It reads the encoded log some shards at a time. Of the test split it holds a few numbers for each impression, and of its users no
more than `evaluation.max_users`.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from rayrec.config import Config, settings_of
from rayrec.data import encoders
from rayrec.data.encoders import FittedEncoders
from rayrec.data.examples import Examples
from rayrec.data.loading import MAY_READ, RANKER, RANKER_WITHOUT_TOPICS, READS, RankingData, fitted_encoders
from rayrec.data.negatives import negatives_of_test, with_negatives
from rayrec.data.pieces import LogPieces
from rayrec.data.popularity import DailyCounts, FadingCounts
from rayrec.data.shards import EncodedLog
from rayrec.data.shares import GROUP_ROWS, Share
from rayrec.data.windows import HistoryGather
from rayrec.evaluation.breakdown import ID, by_history, by_novelty, history_lengths, seen_in_training, without_ids, without_modality
from rayrec.evaluation.pages import (
    Counters,
    Recommended,
    TestUser,
    find_test_users,
    in_order,
    page_metrics,
    popular_pages,
    ranked_pages,
    recommended_pages,
)
from rayrec.evaluation.popularity import CLICK_RATE, RECENT_CLICKS, item_scores, popularity_metrics, recent_clicks
from rayrec.evaluation.report import (
    Report,
    breakdown_picture,
    click_warnings,
    drawn_warnings,
    overview_picture,
    page_warnings,
    split_warnings,
)
from rayrec.ranking.fitting import goal_metrics, predict, predict_goals
from rayrec.ranking.goals import SeveralGoals
from rayrec.ranking.scorer import RankerError, Scorer
from rayrec.recall import sources
from rayrec.recall.items import ItemData
from rayrec.stages import learned
from rayrec.stages.encode import STAGE as ENCODE
from rayrec.stages.encode import encoded_log
from rayrec.tables import TEXT, TRUTH
from rayrec.training.metrics import Reliability, basic_metrics, click_metrics, reliability
from rayrec.workspace.files import to_json
from rayrec.workspace.parts import write_part
from rayrec.workspace.stage import NEEDED, Stage, StageRun

# What a page is worth by the truth of the synthetic world: measure -> column of `truth_preferences`.
EXPECTED = {"expected_ctr": "click_probability", "expected_watch_s": "watch_s", "expected_likes": "like_probability"}
WITH_TOPICS, WITHOUT_TOPICS, BEST = "with topics", "without topics", "best possible"


def evaluate(run: StageRun) -> None:
    """The work of the stage: writes `predictions`, report.json and two pictures."""
    config, k = run.config, run.config.evaluation.k
    log = encoded_log(run)
    rankers = _trained_rankers(run, log)
    published_at = encoders.published_at(run.read("catalog", ["video_id", "published_at"]), log.facts.split_by)
    test = _predicted(log, rankers, published_at, config)

    popular = item_scores(test.counters, log.daily, log.facts.test_at, log.facts.clicks_only)
    probabilities = test.probabilities | {name: score[test.item] for name, score in popular.items() if name == CLICK_RATE}
    recommended = _served_pages(config, log, rankers, test, published_at)
    pages = {name: found.pages for name, found in recommended.items()}
    pages |= {name: popular_pages(test.users, score, k) for name, score in popular.items()}
    truth = _true_preferences(run, rankers[0].scorer)
    if truth:
        probabilities[BEST] = _true_probabilities(run, len(test.item))
        pages[BEST] = ranked_pages(test.users, lambda user: np.nan_to_num(truth["expected_ctr"][user.user]), k)

    metrics = {name: page_metrics(test.users, page, k) | _expected(test.users, page, truth) for name, page in pages.items()}
    clicks = _click_metrics(test, probabilities, popular, log)
    report = Report(
        k=k,
        impressions=log.test_rows,
        drawn=len(test.item) - log.test_rows,
        test_users=len(test.users),
        candidate_recall=recommended[rankers[0].name].candidate_recall,
        recall_by_source=recommended[rankers[0].name].recall_by_source,
        clicks=clicks,
        pages=metrics,
        by_history={each.name: by_history(test.length, test.clicked, probabilities[each.name]) for each in rankers},
        without_modality={
            name: {modality: basic_metrics(test.clicked, found) for modality, found in without.items() if modality != ID}
            for name, without in test.without.items()
        },
        by_novelty={
            each.name: by_novelty(
                seen_in_training(each.scorer)[test.item], test.clicked, probabilities[each.name], test.without[each.name][ID]
            )
            for each in rankers
        },
        reliability={each.name: _as_lists(reliability(test.clicked, probabilities[each.name])) for each in rankers},
        goals={
            each.name: goal_metrics(each.scorer.settings, test.labels, test.values[each.name]) for each in rankers if test.values
        },
        warnings=[*click_warnings(clicks, rankers[0].name), *page_warnings(metrics, rankers[0].name, k)],
    )
    report.warnings.extend([*split_warnings(log.facts.split_by), *drawn_warnings(report.drawn)])
    _write_predictions(run, probabilities)
    run.write_file("report.json", to_json(asdict(report), indent=1))
    run.write_file("report.png", overview_picture(report))
    run.write_file("breakdown.png", breakdown_picture(report))
    run.count(rows_in=log.test_rows, rows_out=log.test_rows)


@dataclass(frozen=True)
class TrainedRanker:
    """A trained ranker, and the items with the topics that its recall may use."""

    name: str
    scorer: Scorer
    items: ItemData

    @cached_property
    def without(self) -> dict[str, Scorer]:
        """The ranker without each of its modalities, and without the ids of videos."""
        modalities = {name: without_modality(self.scorer, name) for name in sorted(self.scorer.items.vectors)}
        return modalities | {ID: without_ids(self.scorer)}


def _trained_rankers(run: StageRun, log: EncodedLog) -> list[TrainedRanker]:
    """The ranker that is served comes first, then the one without topics if `train` made it.

    Recall has the topics that it has in the bundle, whether the ranker uses them or not; only the comparison is without any. Raises
    `RankerError` if the tables are no longer those of the training: the items of the ranker would be other videos.
    """
    folder, found = run.input_folder("train"), []
    for name in (RANKER, RANKER_WITHOUT_TOPICS):
        if not run.fs.get_file_info(f"{folder}/{name}/ranker.json").is_file:
            continue
        scorer = Scorer.load(run.fs, f"{folder}/{name}")
        if not scorer.fits(fitted_encoders(run, log, scorer.settings, base=scorer)):
            raise RankerError(
                f"{folder}/{name} was trained on another catalog or log than the present one; run `rayrec train CONFIG` and "
                "then this again"
            )
        scorer = _knowing(scorer, log.daily)
        topics = run.read_if_there("topics") if name == RANKER else None
        has_topics = topics is not None and topics.num_rows > 0
        items = ItemData.of_tables(scorer.item_ids, run.read("catalog"), topics, lambda: run.read_if_there("embeddings"))
        items = learned.with_learned(run, items, scorer.item_ids)
        found.append(TrainedRanker(WITH_TOPICS if has_topics else WITHOUT_TOPICS, scorer, items))
    return found


def _served_pages(
    config: Config, log: EncodedLog, rankers: list[TrainedRanker], test: "TestSplit", published_at: np.ndarray
) -> dict[str, Recommended]:
    """The page of each test user by each ranker, from what is known when the test begins."""
    pages, known = {}, log.daily.before(log.facts.test_at)
    for ranker in rankers:
        found = recommended_pages(
            test.users,
            _knowing(ranker.scorer, known),
            ranker.items,
            test.counters,
            published_at,
            config.recall,
            config.selection,
            config.evaluation.k,
            config.seed,
        )
        pages[ranker.name] = asyncio.run(found)
    return pages


def _knowing(scorer: Scorer, daily: DailyCounts) -> Scorer:
    """The ranker with these counts of how popular videos are, if it knows any."""
    half_lives = scorer.settings.half_lives
    return scorer.over(scorer.items, FadingCounts.of(daily, half_lives, len(scorer.item_ids))) if half_lives else scorer


def _click_metrics(
    test: "TestSplit", probabilities: dict[str, np.ndarray], popular: dict[str, np.ndarray], log: EncodedLog
) -> dict[str, dict[str, float]]:
    """The click metrics of rankers, of popularity as it is known at each impression, and of the best that is possible."""
    found = {name: click_metrics(test.user, test.clicked, probabilities[name]) for name in test.probabilities}
    scores = {name: score[test.item] for name, score in popular.items()}
    scores[RECENT_CLICKS] = recent_clicks(log.daily, len(popular[RECENT_CLICKS]), test.item, test.at)
    found |= popularity_metrics(test.user, test.clicked, scores)
    if BEST in probabilities:
        found[BEST] = click_metrics(test.user, test.clicked, probabilities[BEST])
    return found


# --- the test split -------------------------------------------------------------------------------------------------------------


@dataclass
class TestSplit:
    """The impressions of the test split in time order, with their predictions, and what was known before it.

    Of a log of clicks alone, behind the impressions come the negatives that were drawn for them.
    """

    __test__ = False  # pytest must not take the class for a test

    user: np.ndarray  # int32, as are `item` and `length`
    item: np.ndarray
    at: np.ndarray  # int64, UTC ms
    clicked: np.ndarray  # bool
    length: np.ndarray  # the clicks of the user before the impression
    probabilities: dict[str, np.ndarray]  # ranker -> float32
    without: dict[str, dict[str, np.ndarray]]  # ranker -> modality, or ID -> the predictions where all items lack it
    counters: Counters
    users: list[TestUser]  # in the order of their first impressions
    labels: np.ndarray  # float32 [rows, G], of the goals of the rankers, NaN where there is none
    values: dict[str, np.ndarray]  # ranker -> the value of each goal, float32 [rows, G]

    @classmethod
    def of_size(cls, rows: int, rankers: list[TrainedRanker]) -> "TestSplit":
        def empty(kind: type) -> np.ndarray:
            return np.empty(rows, dtype=kind)

        items, goals = len(rankers[0].scorer.item_ids), len(rankers[0].scorer.settings.goals)
        return cls(
            empty(np.int32),
            np.zeros(rows, np.int32),
            empty(np.int64),
            empty(np.bool_),
            empty(np.int32),
            {ranker.name: empty(np.float32) for ranker in rankers},
            {ranker.name: {name: empty(np.float32) for name in ranker.without} for ranker in rankers},
            Counters(np.zeros(items, np.int64), np.zeros(items, np.int64)),
            [],
            np.empty((rows, goals), np.float32),
            {ranker.name: np.empty((rows, goals), np.float32) for ranker in rankers if goals},
        )

    def without_empty(self, impressions: int) -> "TestSplit":
        """Without the places behind the impressions for which no negative could be drawn."""
        rows = (np.arange(len(self.item)) < impressions) | (self.item > 0)
        columns = {name: getattr(self, name)[rows] for name in ("user", "item", "at", "clicked", "length", "labels")}
        without = {ranker: {name: values[rows] for name, values in found.items()} for ranker, found in self.without.items()}
        probabilities, values = ({k: v[rows] for k, v in found.items()} for found in (self.probabilities, self.values))
        return replace(self, **columns, probabilities=probabilities, values=values, without=without)


def _predicted(log: EncodedLog, rankers: list[TrainedRanker], published_at: np.ndarray, config: Config) -> TestSplit:
    """Goes through the log once, some shards at a time. If there are too many test users, it keeps a random sample of them."""
    scorer, most = rankers[0].scorer, config.evaluation.max_users
    negatives = negatives_of_test(config.training, log.facts.clicks_only)
    test = TestSplit.of_size(log.test_rows * (1 + negatives.count if negatives else 1), rankers)
    fitted = FittedEncoders(
        scorer.user_encoder, scorer.item_encoder, scorer.context_encoder, scorer.users, scorer.items, published_at
    )
    draw, limit = np.random.default_rng(config.seed).random(len(scorer.users.ids)), 1.0
    goals = list(scorer.settings.goals.values())
    for share in Share.in_groups(log, GROUP_ROWS, scorer.context_encoder, len(scorer.users.ids), goals):
        data = RankingData.of(fitted, share, in_memory=True)
        row = data.test_row
        examples, place = with_negatives(data.test, data.clicks, published_at, negatives, config.seed)
        if negatives:
            behind = log.test_rows + row[place // negatives.count].astype(np.int64) * negatives.count + place % negatives.count
            row = np.append(row, behind)
        test.user[row], test.item[row], test.clicked[row] = examples.user, examples.item, examples.clicked
        test.at[row], test.length[row] = examples.at, history_lengths(data.clicks, examples)
        test.counters += Counters.of(data)
        test.users += find_test_users(data, published_at, log.facts.test_at, draw < limit)
        if len(test.users) > most:
            test.users = sorted(test.users, key=lambda user: draw[user.user])[:most]
            limit = draw[test.users[-1].user]
        if examples.goals is not None:
            test.labels[row] = examples.goals
        for ranker in rankers:
            test.probabilities[ranker.name][row] = _probabilities(ranker.scorer, data, examples)
            if isinstance(model := ranker.scorer.model, SeveralGoals):
                gather = HistoryGather(data.clicks, model.window, ranker.scorer.device)
                test.values[ranker.name][row] = predict_goals(model, examples, gather, ranker.scorer.device)
            for name, without in ranker.without.items():
                test.without[ranker.name][name][row] = _probabilities(without, data, examples)
    test.users = in_order(test.users)
    return test.without_empty(log.test_rows)


def _probabilities(scorer: Scorer, data: RankingData, examples: Examples) -> np.ndarray:
    """The click probability of each of some examples of the test split: float32 [examples]."""
    gather = HistoryGather(data.clicks, scorer.model.window, scorer.device)
    return predict(scorer.model, examples, gather, scorer.device)


def _test_log(run: StageRun, columns: list[str]) -> Iterator[pa.Table]:
    """The rows of the log's test split, piece by piece."""
    log = LogPieces.of(run.fs, run.part_digests("interactions"))
    first = log.split(run.config.split).test.start
    for piece in log.pieces:
        if piece.first + piece.rows > first:
            yield piece.read(run.fs, columns).slice(max(first - piece.first, 0))


def _write_predictions(run: StageRun, probabilities: dict[str, np.ndarray]) -> None:
    done = 0
    for number, log in enumerate(_test_log(run, ["user_id", "video_id", "shown_at", "clicked", "request_id"])):
        tables = [
            log.append_column("model", pa.array([model] * log.num_rows, TEXT)).append_column(
                "probability", pa.array(values[done : done + log.num_rows], pa.float32())
            )
            for model, values in probabilities.items()
        ]
        write_part(run.fs, f"{run.folder}/predictions", "predictions", number, pa.concat_tables(tables))
        done += log.num_rows
    run.record_parts("predictions", done * len(probabilities))


def _as_lists(found: Reliability) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in found._asdict().items()}


def _true_probabilities(run: StageRun, rows: int) -> np.ndarray:
    """The true click probability of each impression of the test split: float32 [impressions]."""
    keys = ["request_id", "video_id"]
    log = pa.concat_tables(_test_log(run, keys))
    numbered = log.append_column("row", pa.array(np.arange(rows)))
    joined = numbered.join(run.read("truth_clicks"), keys=keys).sort_by("row")
    return joined["click_probability"].to_numpy()


def _true_preferences(run: StageRun, scorer: Scorer) -> dict[str, np.ndarray]:
    """What is expected of each user and item, by the name of its measure: float32 [U, I], NaN where it is not known."""
    truth = run.read_if_there("truth_preferences")
    if truth is None:
        return {}
    rows, columns = scorer.users.rows_of(truth["user_id"]), scorer.items.rows_of(truth["video_id"])
    found = {}
    for measure, name in EXPECTED.items():
        if name in truth.column_names and truth[name].null_count == 0:  # an earlier version knew of clicks alone
            found[measure] = np.full((len(scorer.users.ids), len(scorer.item_ids)), np.nan, dtype=np.float32)
            found[measure][rows, columns] = truth[name].to_numpy()
    return found


def _expected(test_users: list[TestUser], pages: list[np.ndarray], truth: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean of each measure over the videos of a page, and over the users."""
    return {
        measure: float(np.nanmean([values[user.user][page].mean() for user, page in zip(test_users, pages, strict=True)]))
        for measure, values in truth.items()
        if test_users
    }


# This is the only stage that may read the truth of the synthetic world.
def check(config: Config) -> None:
    """Raises `ConfigError` for a recall source or an option that does not exist."""
    sources.check(config)


STAGE = Stage(
    "evaluate",
    evaluate,
    reads=(*READS, "interactions"),
    may_read=(*MAY_READ, *learned.MAY_READ, *TRUTH),
    after=("train", "encode"),
    log=NEEDED,
    first=(ENCODE,),
    writes=("predictions",),
    settings=lambda config: settings_of(config.evaluation, config.recall, config.selection) | learned.settings(config),
    check=check,
)
