"""Tag vectors: random walks on the graph of tags that occur on the same videos, then skip-gram (DeepWalk; Perozzi et al., 2014).

The graph is a sparse matrix, all walks take each step together, and skip-gram reads the walks from one array, so that 12,000 tags
of millions of videos fit into memory.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from gensim.models import Word2Vec

from rayrec.config import Topics
from rayrec.tables import TEXT

MAX_TAGS_OF_A_VIDEO = 200  # a video with more tags does not say which of them belong together, but has too many pairs


def incidence(tags: pa.ChunkedArray, max_tags: int, min_videos: int = 1) -> tuple[sp.csr_matrix, list[str]]:
    """Which video has which tag, as a 0/1 matrix [videos, tags], and the tags in alphabetical order.

    Tags of fewer than `min_videos` videos are left out. Of more than `max_tags` tags, the most frequent are kept; among equally
    frequent tags, the first by the alphabet.
    """
    names = sorted(pc.unique(pc.list_flatten(tags).drop_null()).to_pylist())
    matrix = incidence_of(tags, names)
    videos = np.bincount(matrix.indices, minlength=len(names))
    kept = np.sort(np.argsort(-videos, kind="stable")[:max_tags])
    kept = kept[videos[kept] >= min_videos]
    return (matrix, names) if len(kept) == len(names) else (matrix[:, kept], [names[tag] for tag in kept])


def incidence_of(tags: pa.ChunkedArray, names: list[str]) -> sp.csr_matrix:
    """Which video has which of these tags, as a 0/1 matrix [videos, tags]. Other tags are ignored."""
    lists = tags.combine_chunks()
    indices = pc.index_in(pc.list_flatten(lists), value_set=pa.array(names, TEXT))
    known = indices.is_valid().to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)[known]
    columns = indices.drop_null().to_numpy(zero_copy_only=False)
    matrix = sp.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(len(lists), len(names)))
    matrix.data[:] = 1  # a tag that occurs twice on a video counts once
    return matrix


def tag_graph(videos_tags: sp.csr_matrix) -> sp.csr_matrix:
    """The edge weights [tags, tags]: the number of videos that have both tags. No edge leads from a tag to itself.

    Videos with more than `MAX_TAGS_OF_A_VIDEO` tags are ignored.
    """
    sane = videos_tags[np.diff(videos_tags.indptr) <= MAX_TAGS_OF_A_VIDEO]
    graph = (sane.T @ sane).tocsr()
    graph.data[graph.indices == np.repeat(np.arange(graph.shape[0], dtype=graph.indices.dtype), np.diff(graph.indptr))] = 0
    graph.eliminate_zeros()
    return graph


def random_walks(graph: sp.csr_matrix, starts: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """One walk from each start, int32 [walks, length]. The next tag is drawn in proportion to the weight of the edge.

    A walk that can't go on (from a tag without edges) is filled up with -1.
    """
    edges = np.concatenate([[0.0], np.cumsum(graph.data, dtype=np.float64)])
    walks = np.full((len(starts), length), -1, dtype=np.int32)
    walks[:, 0] = starts
    alive = np.flatnonzero(np.diff(graph.indptr)[starts])
    for step in range(1, length):
        here = walks[alive, step - 1]
        low, high = edges[graph.indptr[here]], edges[graph.indptr[here + 1]]
        drawn = low + rng.random(len(here)) * (high - low)
        edge = np.searchsorted(edges, drawn, side="right") - 1
        # A draw may be rounded to the upper end of its interval, which belongs to the next tag.
        walks[alive, step] = graph.indices[np.minimum(edge, graph.indptr[here + 1] - 1)]
    return walks


class Sentences:
    """The walks as gensim reads them in each epoch: lists of words, made on demand. A word is the index of a tag."""

    def __init__(self, walks: np.ndarray, tags: int) -> None:
        self.walks = walks
        self.words = np.array([str(tag) for tag in range(tags)], dtype=object)

    def __iter__(self) -> Iterator[list[str]]:
        for walk in self.walks:
            yield self.words[walk[walk >= 0]].tolist()


def skip_gram(walks: np.ndarray, tags: int, settings: Topics, seed: int) -> np.ndarray:
    """A vector for each tag, float32 [tags, tag_size]. Tags that are near each other in the walks have similar vectors."""
    model = Word2Vec(
        Sentences(walks, tags),
        vector_size=settings.tag_size,
        window=settings.window,
        sg=1,
        min_count=1,
        workers=1,  # with more, the result would depend on the timing of the threads
        epochs=settings.skip_gram_epochs,
        seed=seed,
    )
    return model.wv.vectors[[model.wv.key_to_index[str(tag)] for tag in range(tags)]]


def tag_vectors(videos_tags: sp.csr_matrix, names: list[str], settings: Topics, seed: int) -> np.ndarray:
    """A vector for each tag, float32 [tags, tag_size], which depends on the seed alone."""
    starts = np.tile(np.arange(len(names)), settings.walks_per_tag)
    walks = random_walks(tag_graph(videos_tags), starts, settings.walk_length, np.random.default_rng(seed))
    return skip_gram(walks, len(names), settings, seed)


def mean_tag_vectors(videos_tags: sp.csr_matrix, vectors: np.ndarray) -> np.ndarray:
    """The mean of the vectors of each video's tags, float32 [videos, tag_size]; zeros for a video without tags.

    `videos_tags` [videos, tags] has the weight of each tag in the mean.
    """
    weights = np.asarray(videos_tags.sum(axis=1))
    return np.asarray(videos_tags @ vectors / np.where(weights > 0, weights, 1), dtype=np.float32)
