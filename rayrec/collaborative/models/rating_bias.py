"""`rating_bias`: how far a user and an item are above the mean of all ratings (Koren, Bell and Volinsky, 2009, equations 3 and 4).

It minimises sum of (r - mean - b_u - b_i)^2 + user_penalty sum of b_u^2 + item_penalty sum of b_i^2.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from rayrec.collaborative.model import Fitting
from rayrec.collaborative.rating_model import RatingModel
from rayrec.collaborative.ratings import RatingData
from rayrec.config import Section
from rayrec.training.callbacks import Epoch

TOLERANCE, MAX_ROUNDS = 1e-6, 1000  # points


class RatingBias(RatingModel):
    class Options(Section):
        user_penalty: Annotated[float, Field(gt=0)] = 5.0
        item_penalty: Annotated[float, Field(gt=0)] = 3.0

    options: Options

    def fit_ratings(self, data: RatingData, fitting: Fitting) -> list[Epoch]:
        """Offsets of users and of items in turns, each exactly; the minimum of this convex sum is where they no longer change."""
        user_N, item_N, users, items = data.train.user, data.train.item, data.users, data.items
        mean = float(data.train.rating.mean(dtype=np.float64))
        above_N = data.train.rating - mean
        user_weight_U = np.bincount(user_N, minlength=users) + self.options.user_penalty
        item_weight_I = np.bincount(item_N, minlength=items) + self.options.item_penalty
        offset_U, offset_I = np.zeros(users), np.zeros(items)
        for _ in range(MAX_ROUNDS):
            before_I = offset_I
            offset_U = np.bincount(user_N, above_N - offset_I[item_N], users) / user_weight_U
            offset_I = np.bincount(item_N, above_N - offset_U[user_N], items) / item_weight_I
            if np.abs(offset_I - before_I).max() < TOLERANCE:
                break
        self.set_vectors(mean, (offset_U, np.zeros((users, 0))), (offset_I, np.zeros((items, 0))))
        return []

    def similar(self, item_B: np.ndarray) -> np.ndarray:
        """The best rated items, beside whatever item: offsets know nothing of likeness."""
        return np.tile(self.item_IS[:, 1], (len(item_B), 1))
