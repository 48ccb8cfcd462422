"""usearch's graph (HNSW; Malkov & Yashunin, 2018), which finds the vectors with the largest products with a query approximately.

The extra `search` installs it. The graph is made of inner products and the vectors may have any length (Morozov & Babenko, 2018).
"""

import logging
from typing import Any

import numpy as np

from rayrec.config.base import is_installed

EXPANSION = 256  # how many nearest ones the graph keeps in sight while it searches

log = logging.getLogger(__name__)


def graph_of(vectors: np.ndarray) -> bytes | None:
    """The graph of the vectors [N, S] that are not zero, as the bytes of its file; None where usearch is not installed."""
    if not is_installed("usearch"):
        log.warning("usearch is not installed, so queries compare all %d vectors: pip install 'rayrec[search]'", len(vectors))
        return None
    import usearch.index

    graph = usearch.index.Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    keys = np.flatnonzero(vectors.any(axis=1))
    graph.add(keys, vectors[keys])
    return bytes(graph.save())


def restored(graph: bytes | None) -> Any:
    """The graph in memory, whose `search(query, count).keys` are rows of the vectors; None without usearch or a graph."""
    if graph is None or not is_installed("usearch"):
        return None
    import usearch.index

    found = usearch.index.Index.restore(graph)
    found.expansion_search = EXPANSION
    return found
