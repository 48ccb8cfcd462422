"""K-means on the weights of a layer, against scikit-learn."""

import numpy as np
import pytest
from sklearn.cluster import KMeans

from rayrec.features.compression.codebooks import cluster, nearest

VALUES = np.random.default_rng(2).normal(size=4000).astype(np.float32)


@pytest.mark.parametrize("count", [2, 7, 16])
def test_it_finds_what_scikit_learn_finds_from_the_same_start(count: int) -> None:
    start = np.linspace(VALUES.min(), VALUES.max(), count)[:, None]
    theirs = KMeans(count, init=start, n_init=1, algorithm="lloyd", max_iter=100, tol=0).fit(VALUES[:, None].astype(np.float64))
    codebook = cluster(VALUES, count)
    assert codebook == pytest.approx(np.sort(theirs.cluster_centers_.ravel()), abs=1e-5)
    indices = nearest(VALUES, codebook)
    assert ((VALUES - codebook[indices]) ** 2).sum() == pytest.approx(theirs.inertia_, rel=1e-5)
    assert np.array_equal(indices, np.abs(VALUES[:, None] - codebook).argmin(1))


def test_few_and_equal_numbers() -> None:
    assert cluster(np.array([1.5], np.float32), 8).tolist() == [1.5]
    assert cluster(np.array([2, 2, 2], np.float32), 8).tolist() == [2]
    assert cluster(np.array([0, 0, 10], np.float32), 8).tolist() == [0, 10]  # without the centres that nothing is nearest to
    assert nearest(np.array([-1, 4, 6, 99]), np.array([0.0, 10.0])).tolist() == [0, 0, 1, 1]
