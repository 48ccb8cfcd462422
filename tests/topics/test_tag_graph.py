"""Tag graph: weights are co-occurrences, walks follow the edges in proportion to them, vectors put neighbours near."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Topics
from rayrec.topics.tag_graph import incidence, mean_tag_vectors, random_walks, tag_graph, tag_vectors

TAGS = pa.chunked_array([[["a", "b"], ["a", "b", "c"], [], None, ["c", "c"], ["d"]]])


def test_edges_count_the_videos_that_carry_both():
    matrix, names = incidence(TAGS)
    assert names == ["a", "b", "c", "d"]
    assert matrix.toarray().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0] * 4, [0] * 4, [0, 0, 1, 0], [0, 0, 0, 1]]
    assert tag_graph(matrix).toarray().tolist() == [[0, 2, 1, 0], [2, 0, 1, 0], [1, 1, 0, 0], [0] * 4]


def test_walks_choose_the_next_tag_in_proportion_to_the_edge():
    graph = tag_graph(incidence(TAGS)[0])
    walks = random_walks(graph, np.zeros(30_000, dtype=int), 3, np.random.default_rng(0))
    first = np.bincount(walks[:, 1], minlength=3) / len(walks)
    assert first == pytest.approx([0, 2 / 3, 1 / 3], abs=0.01)
    steps = set(map(tuple, np.unique(walks[:, 1:], axis=0)))
    assert steps == {(1, 0), (1, 2), (2, 0), (2, 1)}


def test_a_tag_without_neighbours_walks_nowhere():
    graph = tag_graph(incidence(TAGS)[0])
    assert random_walks(graph, np.array([3, 0]), 4, np.random.default_rng(0))[0].tolist() == [3, -1, -1, -1]


def test_vectors_put_tags_of_one_group_near_and_are_the_same_for_a_seed():
    rng = np.random.default_rng(0)
    groups = [[f"{group}{i}" for i in range(6)] for group in "xyz"]
    videos = [list(rng.choice(groups[v % 3], 3, replace=False)) for v in range(300)]
    matrix, names = incidence(pa.chunked_array([videos]))
    settings = Topics(tag_size=16, walk_length=20)
    vectors = tag_vectors(matrix, names, settings, seed=1)
    assert np.array_equal(vectors, tag_vectors(matrix, names, settings, seed=1))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T
    same = np.array([[a[0] == b[0] for a in names] for b in names])
    assert near[same].min() > near[~same].max()
    means = mean_tag_vectors(matrix, vectors)
    np.testing.assert_allclose(means[0], vectors[[names.index(tag) for tag in videos[0]]].mean(0), rtol=1e-5)
