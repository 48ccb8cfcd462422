"""Similar videos against a loop over all of them."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec.recall.queues import ItemTopics
from rayrec.recall.similar import by_topics, by_vector, nearest


def test_by_vector() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[7] = 0  # item 8 has none
    items, similarity = by_vector(vectors, 4)
    assert items.tolist() == [i for i in range(1, 31) if i not in (4, 8)]
    assert similarity == pytest.approx([vectors[i - 1] @ vectors[3] for i in items], abs=1e-6)
    assert len(by_vector(vectors, 8)[0]) == 0


def test_vectors_behind_the_others_count_like_these() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    vectors[7] = 0
    for item in range(1, 10):
        items, similarity = by_vector(vectors[:6], item, vectors[6:])
        assert items.tolist() == by_vector(vectors, item)[0].tolist()
        assert similarity == pytest.approx(by_vector(vectors, item)[1], abs=1e-6)


def test_by_topics() -> None:
    topics = ItemTopics.of_lists(pa.array([None, [0, 1], [1], [2], [0, 1, 2, 3], None], pa.list_(pa.int32())))
    items, similarity = by_topics(topics, 1)
    assert items.tolist() == [2, 4]
    assert similarity == pytest.approx([1 / 2**0.5, 2 / 8**0.5])
    assert len(by_topics(topics, 5)[0]) == 0


def test_nearest_prefers_the_more_clicked_of_equals() -> None:
    items, clicks = np.array([3, 4, 5, 6]), np.array([0, 0, 0, 1, 7, 9, 2])
    similarity = np.array([0.5, 0.5, 0.9, 0.5])
    assert items[nearest(items, similarity, clicks, 3)].tolist() == [5, 4, 6]
    assert items[nearest(items, similarity, clicks, 9)].tolist() == [5, 4, 6, 3]
    assert nearest(items[:0], similarity[:0], clicks, 3).tolist() == nearest(items, similarity, clicks, 0).tolist() == []
