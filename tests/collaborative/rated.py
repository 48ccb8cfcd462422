"""A small world of ratings whose truth is known: vectors of two numbers, offsets, and noise."""

import numpy as np

from rayrec.collaborative.ratings import RatingData, Ratings

USERS, ITEMS = 41, 31  # index 0 included


def rated(share: float = 0.6, noise: float = 0.3) -> RatingData:
    """Ratings from 1 to 5, a fifth of them held out. User 40 and item 30 have none. The fields are the true vectors and noise."""
    generator = np.random.default_rng(3)
    user_US, item_IS = generator.normal(size=(USERS, 2)), generator.normal(size=(ITEMS, 2))
    offset_U, offset_I = 0.4 * generator.normal(size=USERS), 0.4 * generator.normal(size=ITEMS)
    points = 3 + offset_U[:, None] + offset_I + user_US @ item_IS.T + noise * generator.normal(size=(USERS, ITEMS))
    draw = generator.random((USERS, ITEMS))
    draw[[0, USERS - 1]] = draw[:, [0, ITEMS - 1]] = 1
    train, held_out = (
        Ratings.of(user, item, np.clip(points[user, item], 1, 5))
        for user, item in (np.nonzero(draw < share * 0.8), np.nonzero((draw >= share * 0.8) & (draw < share)))
    )
    fields = (
        np.concatenate([vectors, generator.normal(size=vectors.shape)], 1, dtype=np.float32) for vectors in (user_US, item_IS)
    )
    return RatingData(train, held_out, *fields)


def rmse(predicted: np.ndarray, ratings: Ratings) -> float:
    return float(np.sqrt(np.mean((predicted - ratings.rating) ** 2)))
