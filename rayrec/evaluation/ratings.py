"""How far predicted ratings are from the true ones, also for users and items of whom training saw few ratings or none.

    RMSE    the root of the mean of (predicted - rating)^2
    MAE     the mean of |predicted - rating|

Both are means over the held-out ratings. Shapes: N held-out ratings.
"""

from itertools import pairwise

import numpy as np

from rayrec.collaborative.ratings import RatingData

METRICS = {"rmse": "RMSE", "mae": "MAE"}
MAX_RATINGS = [0, 5, 20, 50, 100]  # in training, of each part except the last
PARTS = ["0", *(f"{low + 1}-{high}" for low, high in pairwise(MAX_RATINGS)), f">{MAX_RATINGS[-1]}"]


def rating_metrics(rating_N: np.ndarray, predicted_N: np.ndarray) -> dict[str, float]:
    """RMSE and MAE; NaN without ratings."""
    if not len(rating_N):
        return dict.fromkeys(METRICS, float("nan"))
    error_N = predicted_N.astype(np.float64) - rating_N
    return {"rmse": float(np.sqrt(np.mean(error_N**2))), "mae": float(np.mean(np.abs(error_N)))}


def by_training_ratings(data: RatingData, predicted_N: np.ndarray) -> dict[str, dict[str, dict[str, float]]]:
    """The number of held-out ratings, RMSE and MAE by how many ratings training has: `users` or `items` -> one of `PARTS` -> each.

    A part without held-out ratings is left out.
    """
    counts = {
        "users": np.bincount(data.train.user, minlength=data.users)[data.held_out.user],
        "items": np.bincount(data.train.item, minlength=data.items)[data.held_out.item],
    }
    return {side: _by_part(count_N, data.held_out.rating, predicted_N) for side, count_N in counts.items()}


def _by_part(count_N: np.ndarray, rating_N: np.ndarray, predicted_N: np.ndarray) -> dict[str, dict[str, float]]:
    part_N = np.searchsorted(MAX_RATINGS, count_N)
    rows = {name: np.flatnonzero(part_N == number) for number, name in enumerate(PARTS)}
    return {
        name: {"ratings": len(found), **rating_metrics(rating_N[found], predicted_N[found])}
        for name, found in rows.items()
        if len(found)
    }
