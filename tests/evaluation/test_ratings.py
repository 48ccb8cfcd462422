"""Errors of predicted ratings against scikit-learn, and parts that were counted by hand."""

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from rayrec.collaborative.ratings import RatingData, Ratings
from rayrec.evaluation.ratings import by_training_ratings, rating_metrics


def test_metrics() -> None:
    generator = np.random.default_rng(0)
    rating, predicted = generator.integers(1, 6, 50), generator.random(50) * 5
    found = rating_metrics(rating, predicted)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(rating, predicted))
    assert found["mae"] == pytest.approx(mean_absolute_error(rating, predicted))
    assert np.isnan(rating_metrics(rating[:0], predicted[:0])["rmse"])


def test_by_how_many_ratings_training_has() -> None:
    train = Ratings.of(np.array([1] * 6 + [2]), np.array([1, 2, 3, 4, 5, 6, 1]), np.full(7, 3.0))
    held_out = Ratings.of(np.array([1, 2, 3, 3]), np.array([7, 2, 1, 2]), np.array([3.0, 4, 5, 1]))
    found = by_training_ratings(RatingData.of(train, held_out, 4, 8), np.array([3.0, 3, 3, 3]))
    assert found["users"] == {
        "0": {"ratings": 2, "rmse": 2, "mae": 2},
        "1-5": {"ratings": 1, "rmse": 1, "mae": 1},
        "6-20": {"ratings": 1, "rmse": 0, "mae": 0},
    }
    assert {part: each["ratings"] for part, each in found["items"].items()} == {"0": 1, "1-5": 3}
