"""K-means finds the groups that are there, and assignment follows the threshold."""

import numpy as np
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize

from rayrec.topics.clustering import assign, cluster


def test_groups_are_found_and_centres_are_unit_vectors():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(5), 40)
    vectors = normalize(np.eye(8)[truth] + 0.1 * rng.normal(size=(200, 8))).astype(np.float32)
    centres = cluster(vectors, 5, seed=0)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-5)
    topics, _ = assign(vectors, centres, 0.6, 3)
    assert adjusted_rand_score(truth, [found[0] for found in topics]) == 1


def test_fewer_distinct_vectors_than_clusters():
    assert len(cluster(np.repeat(np.eye(3, dtype=np.float32), 4, axis=0), 50, seed=0)) == 3


def test_every_centre_above_the_threshold_or_else_the_nearest():
    centres = np.eye(3, dtype=np.float32)
    vectors = normalize(np.array([[1, 0.9, 0], [1, 0.1, 0], [1, 1.01, 1.02], [-1, -2, -3]])).astype(np.float32)
    topics, similarity = assign(vectors, centres, 0.6, 2)
    assert [found.tolist() for found in topics] == [[0, 1], [0], [2], [0]]
    topics, _ = assign(vectors, centres, 0.5, 2)
    assert [found.tolist() for found in topics] == [[0, 1], [0], [2, 1], [0]]
    for vector, found, values in zip(vectors, topics, similarity, strict=True):
        np.testing.assert_allclose(values, centres[found[: len(values)]] @ vector, rtol=1e-6)
