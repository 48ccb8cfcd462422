"""K-means on Ray: as good as on one node, and each time the same."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from rayrec.topics.clustering import nearest

BLOCKS = (1_000, 2_500, 2_500)  # where the vectors are cut


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(30, 16))
    return normalize(middles[rng.integers(30, size=4_000)] + rng.normal(size=(4_000, 16))).astype(np.float32)


def inertia(vectors: np.ndarray, centres: np.ndarray) -> float:
    """After one more mean of each cluster, so that centres of any length compare."""
    labels, _ = nearest(vectors, centres)
    return sum(((vectors[labels == label] - vectors[labels == label].mean(axis=0)) ** 2).sum() for label in np.unique(labels))


def test_matches_the_single_node(ray_cluster: str, monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray) -> None:
    import ray

    from rayrec.stages.on_ray.clustering import over_blocks
    from rayrec.topics import clustering

    monkeypatch.setattr(clustering, "STARTS", 2)
    map_blocks = over_blocks([ray.put(part) for part in np.split(vectors, BLOCKS)])  # one of them is empty
    centres = clustering.k_means(map_blocks, 30, seed=0, max_iterations=clustering.MAX_ITERATIONS)
    assert centres.shape == (30, 16)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-5)
    assert inertia(vectors, centres) <= 1.02 * KMeans(30, n_init=4, random_state=0).fit(vectors).inertia_
    assert np.array_equal(*(clustering.k_means(map_blocks, 30, 0, 1) for _ in range(2)))
