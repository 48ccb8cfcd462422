"""Evaluates recall and ranking together: the page that each user of the test period would have been served, and how good it is.

A user's page is made at the time of their first test impression, from what was known when the test period began. It holds neither
videos that the user has seen before nor videos that were not published yet. Relevant are the videos that the user clicked in the
test period and had not been shown before it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from rayrec.config import Recall, Selection, scored
from rayrec.data.loading import RankingData
from rayrec.data.popularity import DailyCounts
from rayrec.data.top import top_items
from rayrec.evaluation.candidates import SourceRecall
from rayrec.ranking.scorer import Scorer
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.items import ItemData, count_by_user_and_day
from rayrec.recall.pipeline import RecallPipeline, ScoredCandidates, Trace
from rayrec.recall.queues import TopicQueues
from rayrec.recall.source import Query
from rayrec.training.metrics import ndcg_at_k, recall_at_k


@dataclass(frozen=True)
class TestUser:
    """A user of the test period."""

    __test__ = False  # pytest must not take the class for a test

    user: int
    at: int  # UTC ms, the time of their first test impression
    history: np.ndarray  # int32, the items clicked before the test period, oldest first
    history_at: np.ndarray  # int64, UTC ms, the times of these clicks
    context: dict[str, Any]  # of their first test impression
    excluded: np.ndarray  # int32, items that were seen before or not published yet
    relevant: np.ndarray  # int32, never empty


@dataclass(frozen=True)
class Counters:
    """Exposures and clicks of each item before the test period: int64 [I], which includes item 0.

    The users of a share count by themselves, so that the counters of all shares add up to those of the log.
    """

    exposures: np.ndarray
    clicks: np.ndarray

    @classmethod
    def of(cls, data: RankingData) -> "Counters":
        item, user, at, clicked = (
            np.concatenate([getattr(part, name) for part in (data.train, data.validation)])
            for name in ("item", "user", "at", "clicked")
        )
        return cls(*count_by_user_and_day(item, user, at, clicked, len(data.items.ids)))

    @classmethod
    def of_days(cls, daily: DailyCounts, items: int) -> Self:
        """The counters of all users together, of whole days."""
        return cls(*(np.bincount(daily.item, counts, items).astype(np.int64) for counts in (daily.exposures, daily.clicks)))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.exposures + other.exposures, self.clicks + other.clicks)


def find_test_users(data: RankingData, published_at: np.ndarray, begin: int, chosen: np.ndarray | None = None) -> list[TestUser]:
    """The users with a relevant video in the test period, in the order of their first test impressions.

    The period begins at `begin` (UTC ms). `published_at` is int64 [I] (UTC ms), 0 where it is unknown. `chosen` masks the users
    who may be among them, if not all: bool [U]. The training examples must be in memory.
    """
    before = [data.train, data.validation]
    seen_user, seen_item = (np.concatenate([getattr(part, name) for part in before]) for name in ("user", "item"))
    seen_by = _grouped(seen_user, seen_item)
    rows_of = _grouped(data.test.user, np.arange(len(data.test)))
    tested = {user: rows for user, rows in rows_of.items() if user and (chosen is None or chosen[user])}
    users = np.array(list(tested), dtype=np.int64)
    click_ends = dict(zip(tested, data.clicks.ends(users, np.full(len(users), begin)).tolist(), strict=True))
    found = []
    for user, rows in tested.items():
        seen = seen_by.get(user, np.empty(0, dtype=np.int32))
        clicked = np.unique(data.test.item[rows][data.test.clicked[rows]])
        relevant = np.setdiff1d(clicked, seen)
        if len(relevant):
            first = int(rows[0])  # examples are in the order of time
            at = int(data.test.at[first])
            clicks = slice(data.clicks.offsets[user], click_ends[user])
            context = data.context_encoder.decode(data.test.context[first])
            excluded = np.union1d(seen, np.flatnonzero(published_at > at)).astype(np.int32)
            found.append(TestUser(user, at, data.clicks.items[clicks], data.clicks.times[clicks], context, excluded, relevant))
    return in_order(found)


def in_order(test_users: list[TestUser]) -> list[TestUser]:
    """Users in the order of their first test impressions."""
    return sorted(test_users, key=lambda user: (user.at, user.user))


class Recommended(NamedTuple):
    """What the users of the test period would have been served."""

    pages: list[np.ndarray]  # int32 [k] for each user
    candidate_recall: float  # the mean share of a user's relevant videos among the candidates; NaN when there are no users
    recall_by_source: dict[str, dict[str, float]]  # as `SourceRecall.means` says


async def recommended_pages(
    test_users: list[TestUser],
    scorer: Scorer,
    items: ItemData,
    counters: Counters,
    published_at: np.ndarray,
    recall: Recall,
    selection: Selection,
    k: int,
    seed: int,
) -> Recommended:
    """The page of each user from the pipeline that serves, with the scores of `scorer`, and how many candidates were relevant.

    All pages are made from the same counters, and videos join the queues when they are published (`published_at` as in
    `find_test_users`). The random draws are those of a `Recommender` with the same seed.
    """
    rng, pipeline = np.random.default_rng(seed), RecallPipeline(recall, selection, items)
    available = published_at <= min((user.at for user in test_users), default=0)
    upcoming = np.flatnonzero(~available).astype(np.int32)
    queues = TopicQueues.build(items.topics, counters.exposures, counters.clicks, available, recall, rng)
    pages, recalls, by_source = [], [], SourceRecall(pipeline)
    for user in test_users:
        published = published_at[upcoming] <= user.at
        if published.any():
            available[upcoming[published]] = True
            queues = queues.updated(upcoming[published], counters.exposures, counters.clicks, available)
            upcoming = upcoming[~published]
        user_id = scorer.users.ids[user.user]
        query = Query(user_id, user.history, user.history_at, Exclusions.of(user.excluded), int(rng.integers(2**31)))
        found = await _recommended_page(user, query, scorer, selection.score, pipeline, queues, k)
        pages.append(found.page)
        recalls.append(recall_at_k(found.candidates.items, user.relevant))
        by_source.add(query, queues, found.candidates, user.relevant)
    return Recommended(pages, _mean(recalls), by_source.means())


async def _recommended_page(
    user: TestUser, query: Query, scorer: Scorer, formula: str | None, pipeline: RecallPipeline, queues: TopicQueues, k: int
) -> ScoredCandidates:
    async def score(items: np.ndarray) -> np.ndarray:
        at, past = np.array([user.at]), ([user.history], [user.history_at])
        return scored(scorer.score([query.user_id], *past, at, items[None], [user.context])[0], scorer.settings.goals, formula)

    return await pipeline.run(query, queues, score, k, Trace())


def ranked_pages(test_users: list[TestUser], scores: Callable[[TestUser], np.ndarray], k: int) -> list[np.ndarray]:
    """The page of each user by a score for every item: float [I] for each user, which includes item 0."""
    pages = []
    for user in test_users:
        score = scores(user).astype(np.float64)
        score[np.append(user.excluded, 0)] = -np.inf
        pages.append(top_items(score[None], min(k, len(score)))[0])
    return pages


def popular_pages(test_users: list[TestUser], score: np.ndarray, k: int) -> list[np.ndarray]:
    """The page of each user by a score for every item that is the same for all users: float [I], which includes item 0."""
    return ranked_pages(test_users, lambda user: score, k)


def page_metrics(test_users: list[TestUser], pages: list[np.ndarray], k: int) -> dict[str, float]:
    """The mean Recall@k and NDCG@k of the pages; NaN when there are no users."""
    return {
        "recall": _mean([recall_at_k(page[:k], user.relevant) for user, page in zip(test_users, pages, strict=True)]),
        "ndcg": _mean([ndcg_at_k(page, user.relevant, k) for user, page in zip(test_users, pages, strict=True)]),
    }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _grouped(keys: np.ndarray, values: np.ndarray) -> dict[int, np.ndarray]:
    """The values of each key, in their order."""
    order = np.argsort(keys, kind="stable")
    names, starts = np.unique(keys[order], return_index=True)
    return dict(zip(names.tolist(), np.split(values[order], starts[1:]), strict=True))
