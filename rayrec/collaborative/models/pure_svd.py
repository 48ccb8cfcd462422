"""`pure_svd`: the clicks as a matrix of low rank, its unknown entries taken as 0.

Cremonesi, Koren and Turrin, "Performance of Recommender Algorithms on Top-N Recommendation Tasks", RecSys 2010, section 3.3.2:
with the truncated singular value decomposition X = U S V^T, a user with the clicks r scores the items by r V V^T. So a user whom
training did not see is scored as well as any other.
"""

import numpy as np
from scipy import sparse

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import CollaborativeModel, Factors, Fitting
from rayrec.collaborative.singular_vectors import singular_vectors
from rayrec.config import Count, Section
from rayrec.training.callbacks import Epoch


class PureSVD(CollaborativeModel):
    class Options(Section):
        factors: Count = 50

    options: Options

    def fit(self, feedback: Feedback, fitting: Fitting) -> list[Epoch]:
        self.vectors_IS = singular_vectors(feedback.likes, self.options.factors, fitting.seed)
        return []

    def scores(self, user_B: np.ndarray, likes_BI: sparse.csr_array) -> np.ndarray:
        found_BI: np.ndarray = (likes_BI @ self.vectors_IS) @ self.vectors_IS.T
        return found_BI

    def similar(self, item_B: np.ndarray) -> np.ndarray:
        found_BI: np.ndarray = self.vectors_IS[item_B] @ self.vectors_IS.T
        return found_BI

    def factors(self) -> Factors:
        return Factors(self.vectors_IS, self.vectors_IS)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"vectors": self.vectors_IS}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.vectors_IS = arrays["vectors"]
