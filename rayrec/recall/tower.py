"""A content tower: says from a video's content where a collaborative model would put it, before anybody has clicked it.

It is a linear map, fitted by ridge regression to the videos that were clicked. The penalty is the one with the smallest error when
each video is left out in turn, which has a closed form (Allen, 1974: PRESS).
Shapes: N videos, D numbers of a content vector, T numbers that are predicted.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

PENALTIES = 10.0 ** np.arange(-3, 4)  # times the mean of the content's squared lengths
MAX_VIDEOS = 200_000  # that it is fitted to; of more, so many are drawn


@dataclass(frozen=True)
class ContentTower:
    weights: np.ndarray  # float32 [D + 1, T], the last row is the intercept

    def __call__(self, content: np.ndarray) -> np.ndarray:
        """The prediction for content vectors, float32 [n, D] -> [n, T]; zeros for a video whose content vector is all zeros."""
        predicted: np.ndarray = content @ self.weights[:-1] + self.weights[-1]
        return np.where(content.any(axis=1, keepdims=True), predicted, 0).astype(np.float32)

    @classmethod
    def fit(cls, content: np.ndarray, target: np.ndarray, seed: int) -> Self:
        """Fitted to content vectors [N, D] and what they are to predict [N, T]; N must be at least 2."""
        if len(content) > MAX_VIDEOS:
            drawn = np.sort(np.random.default_rng(seed).choice(len(content), MAX_VIDEOS, replace=False))
            content, target = content[drawn], target[drawn]
        mean, target_mean = content.mean(axis=0, dtype=np.float64), target.mean(axis=0, dtype=np.float64)
        x, y = content - mean, target - target_mean
        values, directions = np.linalg.eigh(x.T @ x)
        rotated = x @ directions
        products, scale = rotated.T @ y, max(values.sum() / len(x), 1e-12)
        best, least = np.zeros_like(products), np.inf
        for penalty in PENALTIES * scale:
            shrunk = 1 / (values.clip(min=0) + penalty)
            coefficients = shrunk[:, None] * products
            leverage = 1 / len(x) + np.square(rotated) @ shrunk
            error = np.square((y - rotated @ coefficients) / (1 - leverage)[:, None].clip(min=1e-9)).sum()
            if error < least:
                best, least = coefficients, error
        weights = directions @ best
        return cls(np.vstack([weights, target_mean - mean @ weights]).astype(np.float32))
