"""K-means on the weights of a layer, against scikit-learn and a slow loop."""

import numpy as np
import pytest
from sklearn.cluster import KMeans

from rayrec.features.compression.codebooks import Codebook, cells, cluster

VALUES = np.random.default_rng(2).normal(size=4000).astype(np.float32)


@pytest.mark.parametrize("count", [2, 7, 16])
def test_it_finds_what_scikit_learn_finds_from_the_same_start(count: int) -> None:
    positive = VALUES + 10  # so that no weight is near the value zero, which is always there
    start = np.linspace(positive.min(), positive.max(), count)[:, None]
    theirs = KMeans(count, init=start, n_init=1, algorithm="lloyd", max_iter=100, tol=0).fit(positive[:, None].astype(np.float64))
    codebook = cluster(positive, count)
    assert codebook.values[0] == 0
    assert codebook.values[1:] == pytest.approx(np.sort(theirs.cluster_centers_.ravel()), abs=1e-4)
    indices = codebook.nearest(positive)
    assert ((positive - codebook.values[indices]) ** 2).sum() == pytest.approx(theirs.inertia_, rel=1e-4)


def slowly(weights: np.ndarray, count: int, bit_cost: float) -> tuple[np.ndarray, np.ndarray]:
    """The values and prices, by going through all weights and values."""
    values = np.unique([0.0, *np.linspace(weights.min(), weights.max(), count)])
    prices = np.zeros(len(values))
    for _ in range(100):
        nearest = ((weights[:, None] - values) ** 2 + prices).argmin(1)
        kept = [place for place, value in enumerate(values) if value == 0 or (nearest == place).any()]
        shares = np.array([max((nearest == place).mean(), 0.5 / len(weights)) for place in kept])
        prices = -bit_cost * weights.var() * np.log2(shares)
        values = np.array([0.0 if values[place] == 0 else weights[nearest == place].mean() for place in kept])
    return values, prices


@pytest.mark.parametrize("bit_cost", [0.0, 0.03, 0.2])
def test_it_finds_what_a_loop_finds(bit_cost: float) -> None:
    weights = VALUES.astype(np.float64)
    values, prices = slowly(weights, 12, bit_cost)
    codebook = cluster(VALUES, 12, bit_cost)
    assert codebook.values == pytest.approx(values, abs=1e-3)
    assert codebook.prices == pytest.approx(prices, abs=1e-3)
    expected = ((weights[:, None] - codebook.values) ** 2 + codebook.prices).argmin(1)
    assert (codebook.nearest(VALUES) == expected).mean() > 0.999


def test_dearer_bits_make_fewer_of_them() -> None:
    """At as many bits as plain K-means needs, the distance is smaller with more values and a price."""
    found = []
    for count, bit_cost in ((8, 0.0), (32, 0.02), (32, 0.04), (32, 0.08)):
        codebook = cluster(VALUES, count, bit_cost)
        indices = codebook.nearest(VALUES)
        shares = np.bincount(indices) / len(VALUES)
        shares = shares[shares > 0]
        found.append((-(shares * np.log2(shares)).sum(), ((VALUES - codebook.values[indices]) ** 2).mean()))
    bits, distances = zip(*found, strict=True)
    assert bits[1] > bits[2] > bits[3]
    assert distances[1] < distances[2] < distances[3]
    assert bits[2] < bits[0]
    assert distances[2] < distances[0]


def test_few_and_equal_numbers() -> None:
    assert cluster(np.array([1.5], np.float32), 8).values.tolist() == [0, 1.5]
    assert cluster(np.array([2, 2, 2], np.float32), 8).values.tolist() == [0, 2]
    assert cluster(np.zeros(3, np.float32), 8).values.tolist() == [0]
    assert cluster(np.array([0, 0, 10], np.float32), 8).values.tolist() == [0, 10]  # without those that are best for nothing
    book = Codebook(np.array([0.0, 10.0], np.float32), np.zeros(2, np.float32))
    assert book.nearest(np.array([-1, 4, 6, 99])).tolist() == [0, 0, 1, 1]
    dear = Codebook(np.array([0.0, 4.0, 10.0], np.float32), np.array([0, 90, 0], np.float32))
    assert dear.nearest(np.array([-1, 4, 6, 99])).tolist() == [0, 0, 2, 2]


def test_of_equal_values_only_the_cheapest_is_used() -> None:
    for prices, place in (([0.1, 0.2, 0.2], 1), ([0.1, 0.3, 0.2], 2), ([0.1, 0.2, 0.3], 1)):
        used, limits = cells(np.array([0.0, 1.0, 1.0]), np.array(prices))
        assert used.tolist() == [0, place]
        assert limits == pytest.approx([0.55])
