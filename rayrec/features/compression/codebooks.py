"""K-means on the weights of one layer: the few values that they share."""

import numpy as np

MAX_ITERATIONS = 100


def cluster(values: np.ndarray, count: int) -> np.ndarray:
    """Lloyd's K-means on numbers: the centres, float32, ascending, at most `count` of them.

    They begin evenly spaced from the smallest to the largest number, which keeps the rare large weights better than a random start
    (Han et al., 2016, section 3.2). A centre that no number is nearest to is left out.
    """
    ordered = np.sort(values.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.linspace(ordered[0], ordered[-1], count)
    for _ in range(MAX_ITERATIONS):
        edges = np.concatenate([[0], np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2, side="right"), [len(ordered)]])
        sizes, totals = np.diff(edges), np.diff(sums[edges])
        moved = totals[sizes > 0] / sizes[sizes > 0]
        if len(moved) == len(centres) and np.array_equal(moved, centres):
            break
        centres = moved
    return np.unique(centres.astype(np.float32))


def nearest(values: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """The index of the nearest value of an ascending codebook for each number."""
    return np.searchsorted((codebook[1:] + codebook[:-1]) / 2, values, side="right")
