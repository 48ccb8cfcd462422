"""The steps from a user's clicks to a page, as plain functions: source -> drop -> backfill -> (the ranker scores) -> select.

Serving walks them for each request; evaluation walks the same ones offline. None looks at more of the catalog than it needs, and
none draws by itself: `draw_seed`, any number, says which of the fresh videos come. `select` is in selection.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rayrec.config import Recall
from rayrec.recall.queues import NONE, ItemTopics, TopicQueues

POPULAR, FRESH = -1, -2  # stand in `Candidates.topics` for items that no topic brought


@dataclass(frozen=True)
class Candidates:
    """Items, and for each the topic whose queue brought it (or POPULAR, FRESH). They are distinct from `drop` on."""

    items: np.ndarray  # int32 [n]
    topics: np.ndarray  # int32 [n]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: np.ndarray) -> "Candidates":
        return Candidates(self.items[rows], self.topics[rows])


@dataclass(frozen=True)
class Exclusions:
    """What must not be shown: items (seen, excluded) and all videos of some authors."""

    items: np.ndarray  # int32, sorted, never empty
    blocked: np.ndarray  # int32, authors, sorted
    author_of: np.ndarray  # int32 [I], needed when authors are blocked

    @classmethod
    def of(cls, items: np.ndarray, blocked: np.ndarray = NONE, author_of: np.ndarray = NONE) -> "Exclusions":
        return cls(np.sort(np.append(items, 0).astype(np.int32)), np.sort(blocked), author_of)

    def also(self, items: np.ndarray) -> "Exclusions":
        return Exclusions.of(np.append(self.items, items), self.blocked, self.author_of)

    def allow(self, items: np.ndarray) -> np.ndarray:
        """Which of the items may be shown."""
        allowed = _absent(items, self.items)
        if len(self.blocked):
            allowed &= _absent(self.author_of[items], self.blocked)
        return allowed


def top_topics(history: np.ndarray, item_topics: ItemTopics, settings: Recall) -> tuple[np.ndarray, np.ndarray]:
    """The N2 topics that stand most often in the last N1 clicks, and how often: the more frequent first, ties by number."""
    topics, counts = np.unique(item_topics.of_items(history[-settings.clicks :]), return_counts=True)
    best = np.argsort(-counts, kind="stable")[: settings.topics]
    return topics[best], counts[best]


def source(history: np.ndarray, queues: TopicQueues, settings: Recall, exclusions: Exclusions, draw_seed: int) -> Candidates:
    """The heads of the queues of the user's top topics, which share N3 candidates by weight; none for a user without clicks.

    A head reaches so far that a topic's share of it is not excluded: who has seen the best of a topic gets the next best.
    """
    topics, weights = top_topics(history, queues.item_topics, settings)
    quotas = np.floor(settings.candidates * weights / max(weights.sum(), 1)).astype(int)
    quotas[:1] += settings.candidates - quotas.sum()
    heads = [_head(queues, int(topic), quota, exclusions, draw_seed) for topic, quota in zip(topics, quotas.tolist(), strict=True)]
    labels = np.repeat(topics.astype(np.int32), [len(head) for head in heads])
    return Candidates(np.concatenate([NONE, *heads]), labels)


def drop(candidates: Candidates, exclusions: Exclusions) -> Candidates:
    """Without the excluded items, and each item where it stands first."""
    allowed = candidates.take(exclusions.allow(candidates.items))
    return allowed.take(np.sort(np.unique(allowed.items, return_index=True)[1]))


def backfill(candidates: Candidates, queues: TopicQueues, exclusions: Exclusions, wanted: int, draw_seed: int) -> Candidates:
    """Filled up to `wanted` with fresh and popular items, in the proportion of the queues while both last, none of them excluded.

    Where no topic brought anything, the popular ones are spread over the topics.
    """
    missing = wanted - len(candidates)
    if missing <= 0:
        return candidates
    exclusions = exclusions.also(candidates.items)
    few = _first(queues.fresh_from(draw_seed), exclusions, round(missing * queues.settings.fresh_share))
    popular = _first(queues.popular_first(spread=not len(candidates)), exclusions, missing - len(few))
    more = missing - len(few) - len(popular)
    fresh = np.append(few, _first(queues.fresh_from(draw_seed), exclusions.also(few), more)) if more else few
    labels = np.repeat(np.array([POPULAR, FRESH], dtype=np.int32), [len(popular), len(fresh)])
    return Candidates(np.concatenate([candidates.items, popular, fresh]), np.concatenate([candidates.topics, labels]))


def _head(queues: TopicQueues, topic: int, quota: int, exclusions: Exclusions, draw_seed: int) -> np.ndarray:
    """A queue up to its `quota`-th item that is not excluded."""
    if not quota:
        return NONE
    count, allowed = quota, np.empty(0, dtype=bool)
    while True:
        items = queues.queue(topic, count, draw_seed)
        allowed = np.append(allowed, exclusions.allow(items[len(allowed) :]))
        if len(items) < count or np.count_nonzero(allowed) >= quota:
            return items[: np.searchsorted(np.cumsum(allowed), quota) + 1]
        count *= 4


def _first(parts: Iterable[np.ndarray], exclusions: Exclusions, count: int) -> np.ndarray:
    """The first `count` items that are not excluded, of parts that are walked no farther than needed."""
    found = [NONE]
    for part in parts:
        for start in range(0, len(part), max(2 * count, 1)):
            if count <= 0:
                break
            items = part[start : start + 2 * count]
            found.append(items[exclusions.allow(items)][:count])
            count -= len(found[-1])
        if count <= 0:
            break
    return np.concatenate(found)


def _absent(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of the values are not among the known, sorted ones. For few of both far quicker than `np.isin`."""
    return known.take(np.searchsorted(known, values), mode="clip") != values
