"""What an experiment has to remember of an arm: how many users it has, and the means and covariances of their numbers.

A user is the unit that is drawn into an arm, so that all that is known of one user makes one row. Rows may be added up on several
machines: moments of disjoint users add up to those of all.

Shapes: K numbers of a user; `...` any shape, such as runs or points in time.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Of the users of an arm."""

    count: np.ndarray  # [...]
    mean: np.ndarray  # [..., K]
    scatter: np.ndarray  # [..., K, K], the sum of the products of deviations from the mean

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Of rows [..., N, K], one for each user."""
        values = np.asarray(values, float)
        mean = values.mean(-2) if values.shape[-2] else np.zeros((*values.shape[:-2], values.shape[-1]))
        apart = values - mean[..., None, :]
        return cls(np.full(values.shape[:-2], values.shape[-2]), mean, np.swapaxes(apart, -1, -2) @ apart)

    @classmethod
    def running(cls, values: np.ndarray, counts: np.ndarray) -> Self:
        """Of the first `counts` [T] (ascending, from 1) of rows [..., N, K], which come one after another: [..., T]."""
        values = np.asarray(values, float)
        centre = values.mean(-2)  # sums of numbers around zero lose no digits
        apart = values - centre[..., None, :]
        ends = np.asarray(counts)
        starts = np.concatenate([[0], ends[:-1]])
        sums = np.cumsum(np.add.reduceat(apart[..., : ends[-1], :], starts, axis=-2), axis=-2)
        products = apart[..., : ends[-1], :, None] * apart[..., : ends[-1], None, :]
        squares = np.cumsum(np.add.reduceat(products, starts, axis=-3), axis=-3)
        mean = sums / ends[:, None]
        scatter = squares - ends[:, None, None] * mean[..., :, None] * mean[..., None, :]
        return cls(np.broadcast_to(ends, mean.shape[:-1]), centre[..., None, :] + mean, scatter)

    def __add__(self, other: "Moments") -> "Moments":
        """Of the users of both, none of whom is in both (Chan et al., 1983). An arm without users adds nothing."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        apart = other.mean - self.mean
        between = (self.count * share)[..., None, None] * apart[..., :, None] * apart[..., None, :]
        return Moments(count, self.mean + share[..., None] * apart, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """Of one user's numbers, without bias: [..., K, K]; zero where there are fewer than two users."""
        return self.scatter / np.maximum(self.count - 1, 1)[..., None, None]
