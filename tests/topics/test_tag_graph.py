"""Tag graph: weights are co-occurrences, walks follow the edges in proportion to them, vectors put neighbours near."""

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from scipy.stats import chi2_contingency

from rayrec.config import Topics
from rayrec.topics.tag_graph import MAX_TAGS_OF_A_VIDEO, incidence, mean_tag_vectors, random_walks, tag_graph, tag_vectors

TAGS = pa.chunked_array([[["a", "b"], ["a", "b", "c"], [], None, ["c", "c"], ["d"]]])


def test_edges_count_the_videos_that_carry_both() -> None:
    matrix, names = incidence(TAGS, 100)
    assert names == ["a", "b", "c", "d"]
    assert matrix.toarray().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0] * 4, [0] * 4, [0, 0, 1, 0], [0, 0, 0, 1]]
    assert tag_graph(matrix).toarray().tolist() == [[0, 2, 1, 0], [2, 0, 1, 0], [1, 1, 0, 0], [0] * 4]


def test_the_most_frequent_tags_stay() -> None:
    matrix, names = incidence(TAGS, 3)
    assert names == ["a", "b", "c"]
    assert matrix.toarray().tolist() == [[1, 1, 0], [1, 1, 1], [0] * 3, [0] * 3, [0, 0, 1], [0] * 3]


def test_a_video_with_all_the_tags_links_none_of_them() -> None:
    everything = [f"t{tag}" for tag in range(MAX_TAGS_OF_A_VIDEO + 1)]
    matrix, _ = incidence(pa.chunked_array([[everything, ["t0", "t1"]]]), 1_000)
    graph = tag_graph(matrix)
    assert (graph.nnz, graph.shape) == (2, (MAX_TAGS_OF_A_VIDEO + 1,) * 2)


def test_walks_are_distributed_as_those_of_a_slow_loop() -> None:
    rng = np.random.default_rng(3)
    weights = np.triu(rng.integers(0, 6, size=(8, 8)), 1)
    weights = weights + weights.T
    walks = random_walks(sp.csr_matrix(weights.astype(np.float32)), np.tile(np.arange(8), 4_000), 6, rng)
    counts = np.zeros((8, 8))
    np.add.at(counts, (walks[:, :-1].ravel(), walks[:, 1:].ravel()), 1)
    slow = np.zeros((8, 8))
    for walk in range(4_000):
        here = walk % 8
        for _ in range(5):
            there = rng.choice(8, p=weights[here] / weights[here].sum())
            slow[here, there] += 1
            here = there
    assert not counts[weights == 0].any()
    both = np.stack([counts[weights > 0], slow[weights > 0]])
    assert chi2_contingency(both).pvalue > 0.001


def test_walks_choose_the_next_tag_in_proportion_to_the_edge() -> None:
    graph = tag_graph(incidence(TAGS, 100)[0])
    walks = random_walks(graph, np.zeros(30_000, dtype=int), 3, np.random.default_rng(0))
    first = np.bincount(walks[:, 1], minlength=3) / len(walks)
    assert first == pytest.approx([0, 2 / 3, 1 / 3], abs=0.01)
    steps = set(map(tuple, np.unique(walks[:, 1:], axis=0)))
    assert steps == {(1, 0), (1, 2), (2, 0), (2, 1)}


def test_a_tag_without_neighbours_walks_nowhere() -> None:
    graph = tag_graph(incidence(TAGS, 100)[0])
    assert random_walks(graph, np.array([3, 0]), 4, np.random.default_rng(0))[0].tolist() == [3, -1, -1, -1]


def test_vectors_put_tags_of_one_group_near_and_are_the_same_for_a_seed() -> None:
    rng = np.random.default_rng(0)
    groups = [[f"{group}{i}" for i in range(6)] for group in "xyz"]
    videos = [list(rng.choice(groups[v % 3], 3, replace=False)) for v in range(300)]
    matrix, names = incidence(pa.chunked_array([videos]), 100)
    settings = Topics(tag_size=16, walk_length=20)
    vectors = tag_vectors(matrix, names, settings, seed=1)
    assert np.array_equal(vectors, tag_vectors(matrix, names, settings, seed=1))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T
    same = np.array([[a[0] == b[0] for a in names] for b in names])
    assert near[same].min() > near[~same].max()
    means = mean_tag_vectors(matrix, vectors)
    np.testing.assert_allclose(means[0], vectors[[names.index(tag) for tag in videos[0]]].mean(0), rtol=1e-5)
