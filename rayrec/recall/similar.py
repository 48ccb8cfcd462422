"""Finds the videos most similar to one, by their vectors or by shared topics. Both are exact and read the whole catalog."""

import numpy as np

from rayrec.recall.queues import ItemTopics


def by_vector(vectors: np.ndarray, item: int, more: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All other items with a vector and their cosine similarities.

    Row i - 1 of `vectors` is item i's, of length 1 or all zeros; `more` has those of the items behind them.
    """
    parts = [vectors] if more is None else [vectors, more]
    vector = vectors[item - 1] if more is None or item <= len(vectors) else more[item - 1 - len(vectors)]
    similarity = np.concatenate([part @ vector for part in parts])
    similarity[item - 1] = 0
    items = np.flatnonzero(similarity).astype(np.int32)
    return items + np.int32(1), similarity[items]


def by_topics(item_topics: ItemTopics, item: int) -> tuple[np.ndarray, np.ndarray]:
    """The other items that share a topic with an item, and the cosine similarities of their sets of topics."""
    own = item_topics.of_items(np.array([item]))
    items, shared = item_topics.items_with_any(own)
    items, shared = items[items != item], shared[items != item]
    sizes = item_topics.offsets[items + 1] - item_topics.offsets[items]
    return items.astype(np.int32), (shared / np.sqrt(sizes * max(len(own), 1))).astype(np.float32)


def nearest(items: np.ndarray, similarity: np.ndarray, clicks: np.ndarray, k: int) -> np.ndarray:
    """The rows of the k most similar items, the most similar first; among equals, the more clicked ones come first."""
    if k < len(items):
        threshold = np.partition(similarity, -k)[-k] if k else np.inf
        rows = np.flatnonzero(similarity >= threshold)
    else:
        rows = np.arange(len(items))
    return rows[np.lexsort((-clicks[items[rows]], -similarity[rows]))][:k]
