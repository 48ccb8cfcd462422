"""The whole road offline: for each user of the test period the page that recall and ranking would have served, and its worth.

A user's page is made at the time of their first test impression, from what was known when the test period began. A page never holds
what the user has seen before, nor what was not published yet. Relevant are the videos that the user clicked in the test period and
had not been shown before it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayrec.config import Recall
from rayrec.data.loading import RankingData
from rayrec.ranking.scorer import Scorer
from rayrec.recall import pipeline
from rayrec.recall.queues import ItemTopics, TopicQueues
from rayrec.recall.selection import best
from rayrec.training.metrics import ndcg_at_k, recall_at_k


@dataclass(frozen=True)
class TestUser:
    """A user of the test period."""

    user: int
    at: int  # UTC ms, of their first test impression
    history: np.ndarray  # int32, clicked items before the test period, oldest first
    history_at: np.ndarray  # int64, UTC ms, the times of these clicks
    context: dict[str, Any]  # of their first test impression
    excluded: np.ndarray  # int32, items seen before or not yet published
    relevant: np.ndarray  # int32, never empty


@dataclass(frozen=True)
class Counters:
    """Exposures and clicks of each item before the test period: int64 [I], item 0 included."""

    exposures: np.ndarray
    clicks: np.ndarray

    @classmethod
    def of(cls, data: RankingData) -> "Counters":
        items, clicked = (
            np.concatenate([getattr(part, name) for part in (data.train, data.validation)]) for name in ("item", "clicked")
        )
        count = len(data.items.ids)
        return cls(np.bincount(items, minlength=count), np.bincount(items[clicked], minlength=count))


def test_users(data: RankingData, published_at: np.ndarray) -> list[TestUser]:
    """Everyone with a relevant video in the test period. `published_at` is int64 [I] (UTC ms), 0 where unknown."""
    before = [data.train, data.validation]
    seen_user, seen_item = (np.concatenate([getattr(part, name) for part in before]) for name in ("user", "item"))
    seen_by = _grouped(seen_user, seen_item)
    tested = _grouped(data.test.user, np.arange(len(data.test)))
    begin = np.full(len(tested), data.test.at[0])
    known = dict(zip(tested, data.clicks.ends(np.array(list(tested)), begin).tolist(), strict=True))  # where the clicks end
    columns = data.test_log.select(list(data.context_encoder.vocabularies))
    found = []
    for user, rows in tested.items():
        seen = seen_by.get(user, np.empty(0, dtype=np.int32))
        clicked = np.unique(data.test.item[rows][data.test.clicked[rows]])
        relevant = np.setdiff1d(clicked, seen)
        if user and len(relevant):
            first = int(rows[0])  # examples are in the order of time
            at = int(data.test.at[first])
            clicks = slice(data.clicks.offsets[user], known[user])
            [context] = columns.slice(first, 1).to_pylist()
            excluded = np.union1d(seen, np.flatnonzero(published_at > at)).astype(np.int32)
            found.append(TestUser(user, at, data.clicks.items[clicks], data.clicks.times[clicks], context, excluded, relevant))
    return found


def topic_pages(
    people: list[TestUser],
    scorer: Scorer,
    item_topics: ItemTopics,
    counters: Counters,
    settings: Recall,
    k: int,
    seed: int,
) -> tuple[list[np.ndarray], float]:
    """The page of each visitor from topic recall and `scorer`, and the share of relevant videos among the candidates."""
    available = np.ones(len(scorer.item_ids), dtype=bool)
    rng = np.random.default_rng(seed)
    queues = TopicQueues.build(item_topics, counters.exposures, counters.clicks, available, settings, rng)
    pages, found = [], []
    for person in people:
        exclusions, draw_seed = pipeline.Exclusions.of(person.excluded), int(rng.integers(2**31))
        candidates = pipeline.drop(pipeline.source(person.history, queues, settings, exclusions, draw_seed), exclusions)
        candidates = pipeline.backfill(candidates, queues, exclusions, settings.candidates, draw_seed)
        scores = scorer.score(
            [scorer.users.ids[person.user]],
            [person.history],
            [person.history_at],
            np.array([person.at]),
            candidates.items[None],
            [person.context],
        )[0]
        pages.append(candidates.items[best(scores, k)])
        found.append(recall_at_k(candidates.items, person.relevant))
    return pages, float(np.mean(found)) if found else float("nan")


def ranked_pages(people: list[TestUser], scores: Callable[[TestUser], np.ndarray], k: int) -> list[np.ndarray]:
    """The page of each visitor by a score for every item: float [I] each, item 0 included."""
    pages = []
    for person in people:
        score = scores(person).astype(np.float64)
        score[np.append(person.excluded, 0)] = -np.inf
        pages.append(np.argsort(-score, kind="stable")[:k])
    return pages


def page_metrics(people: list[TestUser], pages: list[np.ndarray], k: int) -> dict[str, float]:
    """Recall@k and NDCG@k, averaged over the test_users; NaN without any."""
    if not people:
        return {"recall": float("nan"), "ndcg": float("nan")}
    pairs = list(zip(people, pages, strict=True))
    return {
        "recall": float(np.mean([recall_at_k(page[:k], person.relevant) for person, page in pairs])),
        "ndcg": float(np.mean([ndcg_at_k(page, person.relevant, k) for person, page in pairs])),
    }


def popularity(counters: Counters) -> np.ndarray:
    """Each item's CTR before the test period, smoothed towards the mean of all with the weight of ten exposures: float [I]."""
    mean = counters.clicks.sum() / max(counters.exposures.sum(), 1)
    return (counters.clicks + 10 * mean) / (counters.exposures + 10)


def _grouped(keys: np.ndarray, values: np.ndarray) -> dict[int, np.ndarray]:
    """The values of each key, in their order."""
    order = np.argsort(keys, kind="stable")
    names, starts = np.unique(keys[order], return_index=True)
    return dict(zip(names.tolist(), np.split(values[order], starts[1:]), strict=True))
