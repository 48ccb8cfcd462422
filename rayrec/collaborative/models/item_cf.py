"""`item_cf`: what goes with the items that a user has clicked, by the users who clicked both.

Sarwar et al., "Item-Based Collaborative Filtering Recommendation Algorithms", WWW 2001; Linden, Smith and York, "Amazon.com
Recommendations", IEEE Internet Computing 2003. With N(i) the users who clicked item i, the weight of two items is their cosine
|N(i) & N(j)| / sqrt(|N(i)| |N(j)|) or their Jaccard similarity |N(i) & N(j)| / |N(i) | N(j)|. Each item keeps its K nearest ones,
and an item's score is the sum of its weights with what the user has clicked.
"""

import numpy as np
from scipy import sparse

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import CollaborativeModel, Fitting
from rayrec.collaborative.sparse_rows import Similarity, from_arrays, largest_of_rows, similarities, to_arrays
from rayrec.config import Count, Section
from rayrec.training.callbacks import Epoch

ITEMS_AT_ONCE = 1000  # of a matrix that may have an entry for most pairs of items


class ItemCF(CollaborativeModel):
    class Options(Section):
        similarity: Similarity = "cosine"
        neighbours: Count = 100  # K

    options: Options

    def fit(self, feedback: Feedback, fitting: Fitting) -> list[Epoch]:
        users_of = feedback.likes.T.tocsr()
        parts = []
        for start in range(0, feedback.items, ITEMS_AT_ONCE):
            some = similarities(users_of[start : start + ITEMS_AT_ONCE], users_of, self.options.similarity).tocoo()
            others = some.row + start != some.col
            pairs = (some.row[others], some.col[others])
            alone = sparse.coo_array((some.data[others], pairs), shape=some.shape).tocsr()
            parts.append(largest_of_rows(alone, self.options.neighbours))
        self.weights_II = sparse.vstack(parts, format="csr")
        return []

    def scores(self, user_B: np.ndarray, likes_BI: sparse.csr_array) -> np.ndarray:
        found_BI: np.ndarray = (likes_BI @ self.weights_II).toarray()
        return found_BI

    def similar(self, item_B: np.ndarray) -> np.ndarray:
        found_BI: np.ndarray = self.weights_II[item_B].toarray()
        return found_BI

    def arrays(self) -> dict[str, np.ndarray]:
        return to_arrays(self.weights_II)

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.weights_II = from_arrays(arrays)
