"""K-means finds the groups that are there as well as scikit-learn does, and assignment follows the threshold."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize

from rayrec.topics import clustering
from rayrec.topics.clustering import (
    Partial,
    assign,
    cluster,
    draw,
    in_threads,
    lloyd,
    merge,
    moved,
    nearest,
    partial,
    start,
    without_twins,
)


def mixture(videos: int, groups: int, size: int, noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(groups, size))
    return normalize(middles[rng.integers(groups, size=videos)] + noise * rng.normal(size=(videos, size))).astype(np.float32)


def test_groups_are_found_and_centres_are_unit_vectors() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(5), 40)
    vectors = normalize(np.eye(8)[truth] + 0.1 * rng.normal(size=(200, 8))).astype(np.float32)
    centres = cluster(vectors, 5, seed=0)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-5)
    topics, _ = assign(vectors, centres, 0.6, 3)
    assert adjusted_rand_score(truth, [found[0] for found in topics]) == 1


def test_fewer_distinct_vectors_than_clusters() -> None:
    assert len(cluster(np.repeat(np.eye(3, dtype=np.float32), 4, axis=0), 50, seed=0)) == 3


@pytest.mark.parametrize(("videos", "groups"), [(2_000, 20), (12_000, 300)])
def test_as_good_as_scikit_learn_and_the_same_for_a_seed(monkeypatch: pytest.MonkeyPatch, videos: int, groups: int) -> None:
    vectors = mixture(videos, groups, 16, noise=0.7)
    monkeypatch.setattr(clustering, "BLOCK", 1_500)
    monkeypatch.setattr(clustering, "CHUNK", 100_000)
    with clustering.in_threads(vectors) as each:
        start_centres = start(each, videos, groups, [0, 0])
        assert np.array_equal(start_centres, start(each, videos, groups, [0, 0]))
        centres, inertia = lloyd(each, start_centres, 50)
        assert np.array_equal(centres, lloyd(each, start_centres, 50)[0])
    assert inertia <= 1.02 * KMeans(groups, n_init=1, random_state=0).fit(vectors).inertia_


def test_the_sums_of_blocks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = mixture(1_000, 7, 5, noise=1)
    centres = vectors[:7]
    distances = ((vectors[:, None] - centres) ** 2).sum(axis=2)
    labels, squared = nearest(vectors, centres)
    assert np.array_equal(labels, distances.argmin(axis=1))
    np.testing.assert_allclose(squared, distances.min(axis=1), atol=1e-5)
    monkeypatch.setattr(clustering, "BLOCK", 100)
    merged = merge(partial(block, centres) for block in np.array_split(vectors, 6))
    assert merged.counts.tolist() == np.bincount(labels, minlength=7).tolist()
    means = [vectors[labels == centre].mean(axis=0) for centre in range(7)]
    np.testing.assert_allclose(moved(merged), means, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(merged.inertia.sum(), distances.min(axis=1).sum(), rtol=1e-5)


def test_an_empty_cluster_splits_the_widest_and_goes_when_there_is_none() -> None:
    sums, counts = np.array([[4.0, 0], [0, 0], [0, 6]]), np.array([4, 0, 2])
    centres = moved(Partial(sums, counts, np.array([0.5, 0, 0.1])))
    np.testing.assert_allclose(centres[:2].mean(axis=0), [1, 0], atol=1e-6)
    assert 0 < np.abs(centres[0] - centres[1]).max() < 0.01
    np.testing.assert_allclose(centres[2], [0, 3])
    assert moved(Partial(sums, counts, np.zeros(3))).tolist() == [[1, 0], [0, 3]]


def test_a_draw_is_in_proportion_to_the_squared_distance() -> None:
    vectors = np.array([[0, 0], [1, 0], [2, 0], [0, 3]], dtype=np.float32)
    origin = np.zeros((1, 2), dtype=np.float32)
    first = [draw(vectors, origin, 1, 1, [seed])[1][0] for seed in range(4_000)]
    shares = [np.mean([np.array_equal(vector, other) for other in first]) for vector in vectors]
    np.testing.assert_allclose(shares, [0, 1 / 14, 4 / 14, 9 / 14], atol=0.03)
    assert len(draw(vectors, origin, 1, 9, [0])[1]) == 3  # what is a centre already is not drawn


def test_every_centre_above_the_threshold_or_else_the_nearest() -> None:
    centres = np.eye(3, dtype=np.float32)
    vectors = normalize(np.array([[1, 0.9, 0], [1, 0.1, 0], [1, 1.01, 1.02], [-1, -2, -3]])).astype(np.float32)
    topics, similarity = assign(vectors, centres, 0.6, 2)
    assert [found.tolist() for found in topics] == [[0, 1], [0], [2], [0]]
    topics, _ = assign(vectors, centres, 0.5, 2)
    assert [found.tolist() for found in topics] == [[0, 1], [0], [2, 1], [0]]
    for vector, found, values in zip(vectors, topics, similarity, strict=True):
        np.testing.assert_allclose(values, centres[found[: len(values)]] @ vector, rtol=1e-6)


def test_assignment_in_blocks_is_what_a_sort_of_everything_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = mixture(3_000, 40, 8, noise=1)
    centres = normalize(vectors[:40])
    monkeypatch.setattr(clustering, "BLOCK", 700)
    monkeypatch.setattr(clustering, "CHUNK", 40 * 90)
    topics, similarities = assign(vectors, centres, 0.5, 4)
    similarity = vectors @ centres.T
    for row, found, values in zip(similarity, topics, similarities, strict=True):
        best = np.argsort(-row, kind="stable")[:4]
        expected = best[row[best] >= 0.5] if row[best[0]] >= 0.5 else best[:1]
        np.testing.assert_allclose(row[found], row[expected], atol=1e-6)
        np.testing.assert_allclose(values, row[found], atol=1e-6)


def test_centres_that_are_nearly_the_same_become_the_mean_of_their_vectors() -> None:
    """K-means with four times as many clusters as there are groups; the groups are at right angles."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 5, 600)
    vectors = normalize(np.eye(5)[group] + 0.1 * rng.normal(size=(600, 5))).astype(np.float32)
    centres = cluster(vectors, 20, 0)
    assert len(centres) == 20
    with in_threads(vectors) as map_blocks:
        found = without_twins(map_blocks, centres, 0.8)
        assert np.array_equal(without_twins(map_blocks, found, 0.8), found)
    order = (found @ np.eye(5)).argmax(axis=0)
    assert sorted(order) == list(range(5)) == list(range(len(found)))
    means = normalize([vectors[group == number].mean(axis=0) for number in range(5)])
    assert ((found[order] * means).sum(axis=1) > 0.999).all()


def test_no_pair_of_centres_stays_as_near_as_the_threshold() -> None:
    rng = np.random.default_rng(1)
    vectors = normalize(rng.normal(size=(400, 3))).astype(np.float32)
    with in_threads(vectors) as map_blocks:
        for similarity in (0.7, 0.9, 0.99):
            found = without_twins(map_blocks, cluster(vectors, 60, 0), similarity)
            assert (found @ found.T - 2 * np.eye(len(found))).max() < similarity
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
        same = np.repeat(vectors[:1], 3, axis=0)
        assert len(without_twins(map_blocks, same, 1.0 - 1e-6)) == 1
