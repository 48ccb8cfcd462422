"""The interface of models that predict how many points a user would give an item.

They are collaborative models like the others: a user is recommended the items of the highest predicted rating.
Shapes: N pairs of a user and an item, B users or items of a call, U users, I items (both count index 0), S numbers of a vector.
"""

from abc import abstractmethod

import numpy as np
from scipy import sparse

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import CollaborativeModel, Fitting
from rayrec.collaborative.ratings import RatingData
from rayrec.data.errors import DataError
from rayrec.training.callbacks import Epoch

OFFSETS = 2  # the first columns of the vectors
PAIRS = 10_000  # whose vectors are gathered at a time


class RatingModel(CollaborativeModel):
    """The base of the rating models among `models/`. The expected rating is the product of a user's vector and an item's.

    The first two numbers of a user's vector are their mean rating and 1, those of an item's are 1 and how far it is above the mean.
    Row 0 has the vectors of an unknown user or item.
    """

    range_2: np.ndarray  # float32: the lowest and the highest rating of the training; no prediction leaves it
    user_US: np.ndarray  # float32
    item_IS: np.ndarray  # float32

    def fit(self, feedback: Feedback, fitting: Fitting) -> list[Epoch]:
        """Raises `DataError` for a log without ratings."""
        if feedback.ratings is None or not len(feedback.ratings.train):
            raise DataError(
                "interactions: there are no ratings in the training split, from which this model of `collaborative.model` learns; "
                "give the log a column `rating`, or choose a model of clicks such as ease"
            )
        self.range_2 = feedback.ratings.train.range
        return self.fit_ratings(feedback.ratings, fitting)

    @abstractmethod
    def fit_ratings(self, data: RatingData, fitting: Fitting) -> list[Epoch]:
        """Learn the vectors from the ratings, of which there is at least one, and `set_vectors`."""

    def set_vectors(self, mean: float, user: tuple[np.ndarray, np.ndarray], item: tuple[np.ndarray, np.ndarray]) -> None:
        """Take the offsets from the mean, [U] and [I], and the further numbers, [U, S - 2] and [I, S - 2], of users and items."""
        self.user_US, self.item_IS = (
            np.concatenate([offsets, vectors], axis=1, dtype=np.float32)
            for offsets, vectors in (
                (np.stack([mean + user[0], np.ones(len(user[0]))], axis=1), user[1]),
                (np.stack([np.ones(len(item[0])), item[0]], axis=1), item[1]),
            )
        )

    def predict(self, user_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
        """The predicted rating of each pair: float32 [N], within the range of the ratings seen in training."""
        found = np.empty(len(user_N), np.float32)
        for start in range(0, len(found), PAIRS):
            rows = slice(start, start + PAIRS)
            found[rows] = np.einsum("ns,ns->n", self.user_US[user_N[rows]], self.item_IS[item_N[rows]])
        return np.clip(found, *self.range_2)

    def scores(self, user_B: np.ndarray, likes_BI: sparse.csr_array) -> np.ndarray:
        """The expected rating, which says more than the predicted one where that is cut at the highest rating."""
        found: np.ndarray = self.user_US[user_B] @ self.item_IS.T
        return found

    def similar(self, item_B: np.ndarray) -> np.ndarray:
        """The cosine of the vectors without the offsets; 0 for an item whose vector is 0."""
        vectors_IS = self.item_IS[:, OFFSETS:]
        length_I1 = np.linalg.norm(vectors_IS, axis=1, keepdims=True)
        unit_IS = vectors_IS / np.where(length_I1 > 0, length_I1, 1)
        found: np.ndarray = unit_IS[item_B] @ unit_IS.T
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        return {"range": self.range_2, "users": self.user_US, "items": self.item_IS}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.range_2, self.user_US, self.item_IS = arrays["range"], arrays["users"], arrays["items"]
