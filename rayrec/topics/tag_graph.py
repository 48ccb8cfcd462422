"""Tags as vectors: random walks on the graph of tags that stand on the same videos, then skip-gram (SOURCES C.2; DeepWalk).

The graph is a sparse matrix, and all walks take each step at once, so that 12,000 tags of millions of videos fit.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from gensim.models import Word2Vec

from rayrec.config import Topics


def incidence(tags: pa.ChunkedArray) -> tuple[sp.csr_matrix, list[str]]:
    """Which video carries which tag, as a 0/1 matrix [videos, tags], and the tags in alphabetical order."""
    lists = tags.combine_chunks()
    values = pc.list_flatten(lists)
    names = sorted(pc.unique(values.drop_null()).to_pylist())
    numbers = pc.index_in(values, value_set=pa.array(names, pa.string()))
    there = numbers.is_valid().to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)[there]
    columns = numbers.drop_null().to_numpy(zero_copy_only=False)
    matrix = sp.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(len(lists), len(names)))
    matrix.data[:] = 1  # a tag that stands twice on a video counts once
    return matrix, names


def tag_graph(videos_tags: sp.csr_matrix) -> sp.csr_matrix:
    """Edge weights [tags, tags]: the number of videos that carry both; no edge from a tag to itself."""
    graph = (videos_tags.T @ videos_tags).tocsr()
    graph.setdiag(0)
    graph.eliminate_zeros()
    return graph


def random_walks(graph: sp.csr_matrix, starts: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """One walk from each start [walks, length]; the next tag is drawn in proportion to the edge's weight.

    -1 fills a walk up from where it could not go on (a tag without edges).
    """
    edges = np.concatenate([[0.0], np.cumsum(graph.data, dtype=np.float64)])
    walks = np.full((len(starts), length), -1, dtype=np.int64)
    walks[:, 0] = starts
    alive = np.flatnonzero(np.diff(graph.indptr)[starts])
    for step in range(1, length):
        here = walks[alive, step - 1]
        low, high = edges[graph.indptr[here]], edges[graph.indptr[here + 1]]
        drawn = low + rng.random(len(here)) * (high - low)
        edge = np.searchsorted(edges, drawn, side="right") - 1
        # Rounding may carry a draw to its upper end, which belongs to the next tag.
        walks[alive, step] = graph.indices[np.minimum(edge, graph.indptr[here + 1] - 1)]
    return walks


def tag_vectors(videos_tags: sp.csr_matrix, names: list[str], settings: Topics, seed: int) -> np.ndarray:
    """A vector for each tag, float32 [tags, tag_size]; the same for the same seed."""
    starts = np.tile(np.arange(len(names)), settings.walks_per_tag)
    walks = random_walks(tag_graph(videos_tags), starts, settings.walk_length, np.random.default_rng(seed))
    sentences = [[str(tag) for tag in walk[walk >= 0]] for walk in walks]
    skip_gram = Word2Vec(
        sentences,
        vector_size=settings.tag_size,
        window=settings.window,
        sg=1,
        min_count=1,
        workers=1,  # more would make the result depend on the threads' timing
        epochs=settings.skip_gram_epochs,
        seed=seed,
    )
    return np.stack([skip_gram.wv[str(tag)] for tag in range(len(names))]).astype(np.float32)


def mean_tag_vectors(videos_tags: sp.csr_matrix, vectors: np.ndarray) -> np.ndarray:
    """The mean of each video's tags' vectors, float32 [videos, tag_size]; zeros for a video without tags."""
    counts = np.maximum(videos_tags.sum(axis=1), 1)
    return np.asarray(videos_tags @ vectors / counts, dtype=np.float32)
