"""usearch's graph: what it finds, and what happens where usearch is not installed."""

import logging

import numpy as np
import pytest

from rayrec import nearest
from rayrec.nearest import graph_of, restored


def test_the_graph_finds_nearly_all_of_the_largest_products_of_vectors_of_any_length() -> None:
    pytest.importorskip("usearch", reason="the extra `search` is not installed")
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(2000, 8)) * rng.uniform(0.5, 2, size=(2000, 1))).astype(np.float32)
    vectors[[3, 9]] = 0
    graph = restored(graph_of(vectors))
    found = 0
    for query in rng.normal(size=(20, 8)).astype(np.float32):
        rows = np.asarray(graph.search(query, 50).keys)
        assert not np.isin([3, 9], rows).any()
        found += np.isin(np.argsort(-(vectors @ query))[:10], rows).sum()
    assert found >= 0.95 * 200


def test_without_usearch_there_is_no_graph_and_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(nearest, "is_installed", lambda module: False)
    with caplog.at_level(logging.WARNING):
        assert graph_of(np.ones((3, 2), np.float32)) is None
    assert "queries compare all 3 vectors: pip install 'rayrec[search]'" in caplog.text
    assert restored(b"a graph") is restored(None) is None
