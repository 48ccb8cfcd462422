"""`pop`: the same items for everybody, by how many users clicked each in training."""

import numpy as np
from scipy import sparse

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import CollaborativeModel, Fitting
from rayrec.training.callbacks import Epoch


class Popularity(CollaborativeModel):
    def fit(self, feedback: Feedback, fitting: Fitting) -> list[Epoch]:
        self.clicks_I = feedback.likes.sum(axis=0).astype(np.float32)
        return []

    def scores(self, user_B: np.ndarray, likes_BI: sparse.csr_array) -> np.ndarray:
        return np.tile(self.clicks_I, (len(user_B), 1))

    def similar(self, item_B: np.ndarray) -> np.ndarray:
        return np.tile(self.clicks_I, (len(item_B), 1))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"clicks": self.clicks_I}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.clicks_I = arrays["clicks"]
