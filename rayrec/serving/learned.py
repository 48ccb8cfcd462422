"""What a collaborative model says of the items of a bundle, as tables that are mapped into memory.

    neighbours   a row for each item, item 0 included: K neighbours, 0 where there are no more, and their weights
    vectors      a row for each item, item 0 included: its `clicked` and its `candidate` vector
    tower        a row for each number of a content vector and one for the intercept: the weights of the content tower
    graph        one row: the file of usearch's graph over the candidates' vectors, where there are very many

A user's vectors are not among them: a user is what they clicked, so that nothing is left of one who is forgotten.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from rayrec.nearest import graph_of, restored
from rayrec.recall.neighbours import Neighbours
from rayrec.recall.tower import ContentTower
from rayrec.recall.vectors import Vectors
from rayrec.tables import BYTES

INTEGERS, FLOATS = pa.large_list(pa.int32()), pa.large_list(pa.float32())
TABLES = {
    "neighbours": pa.schema({"items": INTEGERS, "weights": FLOATS}),
    "vectors": pa.schema({"clicked": FLOATS, "candidate": FLOATS}),
    "tower": pa.schema({"weights": FLOATS}),
    "graph": pa.schema({"graph": BYTES}),
}


def tables_of(neighbours: Neighbours | None, vectors: Vectors | None, exact_videos: int) -> dict[str, pa.Table]:
    """The tables of what there is. There is a graph if the vectors are of more than `exact_videos`."""
    found = {}
    if neighbours is not None:
        found["neighbours"] = pa.table({"items": _lists(neighbours.items), "weights": _lists(neighbours.weights)})
    if vectors is not None:
        found["vectors"] = pa.table({"clicked": _lists(vectors.clicked), "candidate": _lists(vectors.candidate)})
        if vectors.tower is not None:
            found["tower"] = pa.table({"weights": _lists(vectors.tower.weights)})
        if len(vectors.candidate) > exact_videos and (graph := graph_of(vectors.candidate)) is not None:
            found["graph"] = pa.table({"graph": pa.array([graph], BYTES)})
    return found


def neighbours_of(tables: Mapping[str, pa.Table]) -> Neighbours | None:
    if "neighbours" not in tables:
        return None
    return Neighbours(_matrix(tables["neighbours"], "items"), _matrix(tables["neighbours"], "weights"))


def vectors_of(tables: Mapping[str, pa.Table]) -> Vectors | None:
    if "vectors" not in tables:
        return None
    clicked, candidate = (_matrix(tables["vectors"], name) for name in ("clicked", "candidate"))
    tower = ContentTower(_matrix(tables["tower"], "weights")) if "tower" in tables else None
    graph = tables["graph"]["graph"][0].as_py() if "graph" in tables else None
    return Vectors(clicked, candidate, tower, restored(graph))


def _lists(matrix: np.ndarray) -> pa.Array:
    """A row of the matrix in each row."""
    return pa.LargeListArray.from_arrays(np.arange(len(matrix) + 1, dtype=np.int64) * matrix.shape[1], np.ravel(matrix))


def _matrix(table: pa.Table, name: str) -> np.ndarray:
    """The lists of a column, which are of one length, as a matrix. Nothing is copied."""
    return table[name].chunk(0).flatten().to_numpy().reshape(table.num_rows, -1)
