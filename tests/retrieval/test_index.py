"""The index: exact against a plain product, filters, a floor, videos that are added while others search, and usearch's graph."""

import threading

import numpy as np
import pyarrow as pa
import pytest

from rayrec.nearest import graph_of
from rayrec.retrieval import index as index_module
from rayrec.retrieval.index import Filters, Index

SIZE = 16


def unit(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, SIZE)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def facts(count: int, first: int = 0) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table(
        {
            "video_id": [f"v{n}" for n in numbers],
            "primary_class": [None if n % 5 == 0 else f"c{n % 3}" for n in numbers],
            "secondary_class": [f"s{n % 2}" for n in numbers],
            "author_id": [f"a{n % 4}" for n in numbers],
            "published_at": pa.array([None if n % 10 == 0 else n for n in numbers], pa.int64()),
        }
    )


def expected(vectors: np.ndarray, query: np.ndarray, k: int, passes: np.ndarray | None = None) -> list[str]:
    scores = vectors.astype(np.float64) @ query
    if passes is not None:
        scores[~passes] = -np.inf
    return [f"v{row}" for row in np.argsort(-scores)[:k] if np.isfinite(scores[row])]


@pytest.mark.parametrize("block", [7, 1 << 16])
def test_the_nearest_are_found_with_their_cosines(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "BLOCK", block)
    vectors, query = unit(100), unit(1, seed=1)[0]
    ids, scores = Index(facts(100), vectors, 1000).search(query, 10)
    assert ids == expected(vectors, query, 10)
    np.testing.assert_allclose(scores, np.sort(vectors @ query)[::-1][:10], rtol=1e-6)
    assert len(Index(facts(100), vectors, 1000).search(query, 500)[0]) == 100


def test_filters_are_joined_and_what_is_unknown_passes_none() -> None:
    vectors, query, n = unit(100), unit(1, seed=1)[0], np.arange(100)
    index = Index(facts(100), vectors, 1000)
    for filters, passes in (
        (Filters(class_="c1"), (n % 3 == 1) & (n % 5 != 0)),
        (Filters(class_="s1"), n % 2 == 1),
        (Filters(author="a2"), n % 4 == 2),
        (Filters(since=50), (n >= 50) & (n % 10 != 0)),
        (Filters("c1", "a2", 50), (n % 3 == 1) & (n % 5 != 0) & (n % 4 == 2) & (n >= 50) & (n % 10 != 0)),
        (Filters(class_="nothing"), n < 0),
    ):
        assert index.search(query, 200, filters=filters)[0] == expected(vectors, query, 200, passes)


def test_nothing_at_or_below_the_floor_is_found_nor_a_video_without_a_vector() -> None:
    vectors = np.eye(4, SIZE, dtype=np.float32)
    vectors[3] = 0
    index = Index(facts(4), vectors, 1000)
    query = np.array([0.9, 0.3, -0.3, *[0] * (SIZE - 3)], dtype=np.float32)
    assert index.search(query, 10)[0] == ["v0", "v1", "v2"]
    assert index.search(query, 10, floor=0.3)[0] == ["v0"]
    assert index.search(query, 10, floor=0.95) == ([], [])
    assert Index(facts(0), np.empty((0, SIZE), np.float32), 10).search(query, 3) == ([], [])


def test_what_is_added_is_found_at_once_and_replaces_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MAX_GROWING", 5)  # several segments
    vectors, added = unit(20), unit(12, seed=2)
    index = Index(facts(20), vectors, 1000)
    for row in range(12):  # v14 to v19 get other vectors, v20 to v25 are new
        index.add(facts(1, first=14 + row), added[row : row + 1])
        assert index.search(added[row], 1)[0] == [f"v{14 + row}"]
    now = np.concatenate([vectors[:14], added])
    for query in unit(10, seed=3):
        assert index.search(query, 8)[0] == expected(now, query, 8)
    assert len(index) == 26
    index.add(pa.table({"video_id": ["v3"]}), -vectors[3:4])
    assert index.search(-vectors[3], 1)[0] == ["v3"]
    assert index.search(-vectors[3], 1, filters=Filters(author="a3"))[0] != ["v3"]  # its author is not known any more


def test_searches_and_additions_at_the_same_time_see_whole_videos() -> None:
    index, vectors, wrong = Index(facts(50), unit(50), 1000), unit(400, seed=4), list[str]()
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            ids, scores = index.search(vectors[0], 30)
            if len(set(ids)) != len(ids) or sorted(scores, reverse=True) != scores:
                wrong.append(str(ids))

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    adding = [
        threading.Thread(target=lambda part=part: [index.add(facts(1, first=part + n), vectors[n : n + 1]) for n in range(100)])
        for part in (100, 150)  # 50 of them are added by both
    ]
    for thread in adding:
        thread.start()
    for thread in adding:
        thread.join()
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(index) == 50 + 150


def test_the_graph_finds_nearly_what_the_product_finds() -> None:
    pytest.importorskip("usearch", reason="the extra `search` is not installed")
    vectors = unit(3000)
    vectors[7] = 0
    graph = graph_of(vectors)
    assert graph is not None
    exact, approximate = Index(facts(3000), vectors, 10**6), Index(facts(3000), vectors, 1000, graph)
    shared = 0
    for query in unit(20, seed=5):
        (right, _), (found, scores) = exact.search(query, 10), approximate.search(query, 10)
        assert "v7" not in found
        assert scores == sorted(scores, reverse=True)
        shared += len({*right} & {*found})
        few = Filters(author="a1", class_="c1")  # fewer than 1000, so that all of them are compared
        assert approximate.search(query, 10, filters=few)[0] == exact.search(query, 10, filters=few)[0]
        many = Filters(class_="s1")
        ids, _ = approximate.search(query, 10, filters=many)
        assert all(int(each[1:]) % 2 == 1 for each in ids)
    assert shared >= 0.95 * 200
    replaced = approximate.search(vectors[11], 1)[0][0]
    assert replaced == "v11"
    approximate.add(facts(1, first=11), -vectors[11:12])
    assert approximate.search(vectors[11], 1)[0] != ["v11"]
    assert approximate.search(-vectors[11], 1)[0] == ["v11"]


def test_words_of_titles_and_tags_count_beside_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "BLOCK", 30)
    vectors, query = unit(100), unit(1, seed=1)[0]
    titles = [f"clip {'zebra' if n % 10 == 3 else ''} {'unicycle' if n in (3, 40, 77) else ''}" for n in range(100)]
    known = facts(100).append_column("title", [titles]).append_column("tags", [[["parade"] if n == 77 else [] for n in range(100)]])
    index = Index(known.slice(0, 90), vectors[:90], 1000)
    index.add(known.slice(90), vectors[90:])
    rarity = {"zebra": np.log(1 + 90.5 / 10.5), "unicycle": np.log(1 + 97.5 / 3.5), "parade": np.log(1 + 99.5 / 1.5)}
    weights = np.array(list(rarity.values())) / sum(rarity.values()) * np.array([10 / 19, 10 / 12, 1])
    has = np.array([[word in title or (word == "parade" and n == 77) for word in rarity] for n, title in enumerate(titles)])
    shares = has @ weights
    scores = 1 - (1 - vectors.astype(np.float64) @ query) * (1 - shares**2)
    for filters, passes in ((Filters(), np.ones(100, dtype=bool)), (Filters(author="a1"), np.arange(100) % 4 == 1)):
        best = [row for row in np.argsort(-scores) if passes[row] and scores[row] > 0.1][:20]
        ids, found = index.search(query, 20, 0.1, filters, "Zebra UNICYCLE zebra parade?")
        assert ids == [f"v{row}" for row in best]
        np.testing.assert_allclose(found, scores[best], rtol=1e-5)


def test_a_video_without_a_vector_is_found_by_its_words() -> None:
    known = facts(3).append_column("title", [["a zebra", "a dog", "a dog"]])
    index = Index(known, np.concatenate([np.zeros((1, SIZE), np.float32), unit(2)]), 1000)
    assert index.search(unit(1, seed=1)[0], 3, 0.5, text="zebra") == (["v0"], [1.0])
    assert index.search(unit(1, seed=1)[0], 3, 0.5) == ([], [])
