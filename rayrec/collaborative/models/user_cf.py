"""`user_cf`: what those have clicked who have clicked much the same as a user.

Breese, Heckerman and Kadie, "Empirical Analysis of Predictive Algorithms for Collaborative Filtering", UAI 1998, with the Jaccard
similarity: N(u) are the items that user u has clicked, w(u, v) = |N(u) & N(v)| / |N(u) | N(v)|, and an item's score is the sum of w
over those of the K nearest users who clicked it.
"""

import numpy as np
from scipy import sparse

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import CollaborativeModel, Fitting, clicked_alone
from rayrec.collaborative.sparse_rows import from_arrays, largest_of_rows, similarities, to_arrays
from rayrec.config import Count, Section
from rayrec.training.callbacks import Epoch


class UserCF(CollaborativeModel):
    class Options(Section):
        neighbours: Count = 100  # K

    options: Options

    def fit(self, feedback: Feedback, fitting: Fitting) -> list[Epoch]:
        self.likes_UI = feedback.likes
        return []

    def scores(self, user_B: np.ndarray, likes_BI: sparse.csr_array) -> np.ndarray:
        found = similarities(likes_BI, self.likes_UI, "jaccard").tocoo()
        others = found.col != np.asarray(user_B)[found.row]
        pairs = (found.row[others], found.col[others])
        weights_BU = largest_of_rows(
            sparse.coo_array((found.data[others], pairs), shape=found.shape).tocsr(), self.options.neighbours
        )
        found_BI: np.ndarray = (weights_BU @ self.likes_UI).toarray()
        return found_BI

    def similar(self, item_B: np.ndarray) -> np.ndarray:
        return self.scores(np.zeros(len(item_B), np.int32), clicked_alone(item_B, self.likes_UI.shape[1]))

    def arrays(self) -> dict[str, np.ndarray]:
        return to_arrays(self.likes_UI)

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.likes_UI = from_arrays(arrays)
