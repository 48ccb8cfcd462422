"""The steps from a user's clicks to a page, as plain functions: source -> drop -> backfill -> (the ranker scores) -> select.

Serving walks them for each request; evaluation walks the same ones offline.
"""

from dataclasses import dataclass

import numpy as np

from rayrec.config import Recall
from rayrec.recall.queues import ItemTopics, TopicQueues

POPULAR, FRESH = -1, -2  # stand in `Candidates.topics` for items that no topic brought


@dataclass(frozen=True)
class Candidates:
    """Distinct items, and for each the topic whose queue brought it (or POPULAR, FRESH)."""

    items: np.ndarray  # int32 [n]
    topics: np.ndarray  # int32 [n]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: np.ndarray) -> "Candidates":
        return Candidates(self.items[rows], self.topics[rows])


def top_topics(history: np.ndarray, item_topics: ItemTopics, settings: Recall) -> tuple[np.ndarray, np.ndarray]:
    """The N2 topics that stand most often in the last N1 clicks, and how often: the more frequent first, ties by number."""
    counts = np.bincount(item_topics.of_items(history[-settings.clicks :]))
    best = np.lexsort((np.arange(len(counts)), -counts))[: settings.topics]
    best = best[counts[best] > 0]
    return best, counts[best]


def source(history: np.ndarray, item_topics: ItemTopics, queues: TopicQueues, settings: Recall) -> Candidates:
    """Up to N3 candidates from the queues of the user's top topics, shared by weight; none for a user without clicks."""
    topics, weights = top_topics(history, item_topics, settings)
    quotas = np.floor(settings.candidates * weights / max(weights.sum(), 1)).astype(int)
    quotas[:1] += settings.candidates - quotas.sum()
    picked = [queues.queue(int(topic))[:quota] for topic, quota in zip(topics, quotas, strict=True)]
    return _distinct(picked, [int(topic) for topic in topics])


def drop(candidates: Candidates, banned: np.ndarray) -> Candidates:
    """Without the banned items (an array of item indices): seen, excluded, withdrawn."""
    return candidates.take(~np.isin(candidates.items, banned))


def backfill(candidates: Candidates, queues: TopicQueues, banned: np.ndarray, wanted: int, fresh_share: float) -> Candidates:
    """Filled up to `wanted` with popular and fresh items, `fresh_share` of them fresh while both last, none of them banned."""
    missing = wanted - len(candidates)
    if missing <= 0:
        return candidates
    taken = np.concatenate([candidates.items, banned])
    popular, fresh = (items[~np.isin(items, taken)] for items in (queues.popular, queues.fresh))
    fresh_count = min(len(fresh), max(round(missing * fresh_share), missing - len(popular)))
    filled = _distinct([candidates.items, popular[: missing - fresh_count], fresh[:fresh_count]], [0, POPULAR, FRESH])
    return Candidates(filled.items, np.concatenate([candidates.topics, filled.topics[len(candidates) :]]))


def select(candidates: Candidates, scores: np.ndarray, k: int) -> np.ndarray:
    """The rows of the k best-scored candidates, the best first."""
    k = min(k, len(candidates))
    best = np.argpartition(-scores, k - 1)[:k] if k else np.empty(0, dtype=np.int64)
    return best[np.argsort(-scores[best], kind="stable")]


def _distinct(parts: list[np.ndarray], topics: list[int]) -> Candidates:
    """The parts one after the other, each item where it stands first, labelled with its part's topic."""
    if not parts:
        return Candidates(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32))
    items = np.concatenate(parts).astype(np.int32)
    labels = np.repeat(np.array(topics, dtype=np.int32), [len(part) for part in parts])
    first = np.sort(np.unique(items, return_index=True)[1])
    return Candidates(items[first], labels[first])
