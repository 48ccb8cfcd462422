"""K-means on the weights of one layer: the few values that they share, the cheaper the more weights have them.

A value that few weights have gets a long Huffman code. Plain K-means does not know that; here a weight takes a further value if
that saves bits (entropy-constrained quantisation; Chou, Lookabaugh and Gray, 1989; for networks, Choi, El-Khamy and Lee, 2017).
"""

from typing import NamedTuple

import numpy as np

MAX_ITERATIONS = 100


class Codebook(NamedTuple):
    """Zero and the other values of a layer, and the price of each: what its bits cost, in squared units of the weights."""

    values: np.ndarray  # float32 [C], ascending
    prices: np.ndarray  # float32 [C]

    def nearest(self, weights: np.ndarray) -> np.ndarray:
        """The place of the value for each weight: the least squared distance and price together."""
        used, limits = cells(self.values, self.prices)
        return used[np.searchsorted(limits, weights, side="right")]


def cells(values: np.ndarray, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places of those of the ascending values that are best for some number, and the limits between their cells."""
    place = np.arange(len(values))
    better = (prices[:, None] < prices) | ((prices[:, None] == prices) & (place[:, None] < place))
    kept = np.flatnonzero(~((values[:, None] == values) & better).any(0))  # of equal values only the cheapest
    values, prices = values[kept], prices[kept]
    with np.errstate(divide="ignore", invalid="ignore"):
        meet = (values[:, None] + values) / 2 + (prices - prices[:, None]) / (2 * (values - values[:, None]))  # two values
    lower, higher = np.tri(len(values), k=-1, dtype=bool).T, np.tri(len(values), k=-1, dtype=bool)
    begins = np.where(lower, meet, -np.inf).max(0)
    used = np.flatnonzero(begins < np.where(higher, meet, np.inf).min(0))
    return kept[used], begins[used[1:]]


def cluster(weights: np.ndarray, count: int, bit_cost: float = 0.0) -> Codebook:
    """At most `count` values besides zero, by Lloyd's K-means on weights [N].

    `bit_cost` is the price of a bit, in units of the variance of the weights. The values begin evenly spaced from the smallest to
    the largest weight, which keeps the rare large weights better than a random start (Han et al., 2016, section 3.2). One that is
    the best for no weight is left out.
    """
    ordered = np.sort(weights.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    price = bit_cost * ordered.var()
    values = np.unique([0.0, *np.linspace(ordered[0], ordered[-1], count)])
    prices = np.zeros(len(values))
    for _ in range(MAX_ITERATIONS):
        used, limits = cells(values, prices)
        ends = np.concatenate([[0], np.searchsorted(ordered, limits, side="right"), [len(ordered)]])
        sizes, totals = np.zeros(len(values)), np.zeros(len(values))
        sizes[used], totals[used] = np.diff(ends), np.diff(sums[ends])
        zero = values == 0
        moved = np.where(zero, 0.0, totals / np.maximum(sizes, 1))
        stay = zero | ((sizes > 0) & (moved != 0))
        if stay.all() and np.array_equal(moved, values):
            break
        values, prices = moved[stay], -price * np.log2(np.maximum(sizes[stay], 0.5) / len(ordered))
    return Codebook(values.astype(np.float32), prices.astype(np.float32))
