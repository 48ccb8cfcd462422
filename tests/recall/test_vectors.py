"""Users as sums of vectors: the nearest items against a loop, other orders, content towers, added items and the graph."""

from dataclasses import replace

import numpy as np
import pytest

from rayrec.nearest import graph_of, restored
from rayrec.recall.tower import ContentTower
from rayrec.recall.vectors import Vectors

SIZE = 8


def made_up(items: int = 50, seed: int = 0) -> Vectors:
    rng = np.random.default_rng(seed)
    clicked, candidate = (rng.normal(size=(items, SIZE)).astype(np.float32) for _ in range(2))
    clicked[0] = candidate[0] = 0
    candidate[9] = 0
    return Vectors(clicked, candidate)


def expected(vectors: Vectors, clicked: list[int], count: int) -> list[int]:
    user = sum(vectors.clicked[item].astype(np.float64) for item in clicked)
    scores = {item: float(vectors.candidate[item] @ user) for item in range(1, len(vectors.candidate)) if item != 9}
    return sorted(scores, key=lambda item: -scores[item])[:count]


def test_the_nearest_items_are_those_of_a_loop() -> None:
    vectors = made_up()
    for clicked in ([3], [3, 3, 17], [1, 2, 30, 44]):
        found = vectors.nearest(vectors.user(np.array(clicked)), 10)
        assert found.tolist() == expected(vectors, clicked, 10)
    everything = vectors.nearest(vectors.user(np.array([3])), 100)
    assert sorted(everything.tolist()) == [item for item in range(1, 50) if item != 9]
    assert not vectors.user(np.array([], np.int32)).any()


def test_items_in_another_order_keep_their_vectors() -> None:
    vectors, old = made_up(), np.array([0, 12, 0, 7, 49])
    after = vectors.aligned(old)
    for new, item in enumerate(old.tolist()):
        np.testing.assert_array_equal(after.clicked[new], vectors.clicked[item])
        np.testing.assert_array_equal(after.candidate[new], vectors.candidate[item])


def with_content() -> tuple[Vectors, np.ndarray]:
    """Vectors that follow from the content, except for two items that the model does not know."""
    vectors, rng = made_up(), np.random.default_rng(3)
    content = rng.normal(size=(49, 5)).astype(np.float32)
    maps = rng.normal(size=(2, 5, SIZE)).astype(np.float32)
    clicked, candidate = (np.vstack([np.zeros((1, SIZE), np.float32), content @ each]) for each in maps)
    content[7] = 0
    clicked[4] = candidate[4] = 99
    return replace(vectors, clicked=clicked, candidate=candidate), content


def test_items_without_clicks_get_vectors_from_their_content() -> None:
    vectors, content = with_content()
    true = np.hstack([vectors.clicked, vectors.candidate])
    unknown = np.isin(np.arange(50), [4, 8])  # of item 8, nothing is known at all
    found = vectors.completed(unknown, content, seed=0)
    both = np.hstack([found.clicked, found.candidate])
    np.testing.assert_array_equal(both[~unknown], true[~unknown])
    assert not both[8].any()
    assert found.tower is not None
    np.testing.assert_allclose(both[4], found.tower(content[3:4])[0])
    others = np.delete(np.arange(1, 50), [3, 7])
    right = np.linalg.lstsq(content[others - 1], true[others], rcond=None)[0]
    np.testing.assert_allclose(both[4], content[3] @ right, atol=0.05)
    assert vectors.completed(unknown, np.zeros((49, 1), np.float32), seed=0).tower is None


def test_added_items_are_reached_and_speak_for_users_by_their_content() -> None:
    vectors, content = with_content()
    vectors = vectors.completed(np.isin(np.arange(50), [4]), content, seed=0)
    grown = vectors.grown([content[11], None]).grown([content[20]])  # the content of items 12 and 21, as items 50 and 52
    np.testing.assert_allclose(grown.user(np.array([3, 50, 52])), vectors.user(np.array([3, 12, 21])), atol=0.05)
    for user in (vectors.clicked[1], -vectors.clicked[1]):
        alone, found = vectors.nearest(user, 100).tolist(), grown.nearest(user, 100).tolist()
        assert {*found} - {*alone} == {50, 52}
        assert abs(found.index(50) - found.index(12)) <= 2
    assert not grown.user(np.array([51])).any()
    assert len(made_up().grown([content[0]]).nearest(vectors.clicked[1], 100)) == 48  # without a tower it can't be placed


def test_the_graph_finds_nearly_what_the_product_finds() -> None:
    pytest.importorskip("usearch", reason="the extra `search` is not installed")
    exact = made_up(5000)
    exact = replace(exact, tower=ContentTower(np.ones((4, 2 * SIZE), np.float32)))
    graph = restored(graph_of(exact.candidate))
    approximate = replace(exact, graph=graph)
    shared = 0
    for item in range(1, 21):
        user = exact.user(np.array([item, item + 20]))
        right, found = exact.nearest(user, 50).tolist(), approximate.nearest(user, 50).tolist()
        assert 9 not in found
        assert len(found) == 50
        shared += len({*right} & {*found})
    assert shared >= 0.95 * 20 * 50
    ones, later = np.ones(SIZE, np.float32), approximate.grown([np.full(3, 9, np.float32)])
    assert later.nearest(ones, 5)[0] == 5000
    assert later.nearest(ones, 4000).tolist() == exact.grown([np.full(3, 9, np.float32)]).nearest(ones, 4000).tolist()
