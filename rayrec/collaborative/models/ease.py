"""`ease`: a linear model from items to items that reproduces what each user clicked, without an item explaining itself.

Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, equation 8: with the Gram matrix G = X^T X of the clicks and
P = (G + l2 I)^-1, the weights are B = I - P diag(P)^-1, whose diagonal is 0.

`content` adds, for each modality, its weight times the Gram matrix of the items' vectors (centred, of unit length) to G: items that
look or sound alike count as if some more users had clicked both. So an item without a click has weights too.
"""

from typing import Annotated

import numpy as np
from pydantic import Field
from scipy import linalg, sparse

from rayrec.collaborative.dense import content_gram, refuse_many_items
from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import CollaborativeModel, Fitting
from rayrec.config import Section
from rayrec.training.callbacks import Epoch


class Ease(CollaborativeModel):
    class Options(Section):
        l2: Annotated[float, Field(gt=0)] = 100.0  # lambda of the paper
        content: dict[str, Annotated[float, Field(ge=0)]] = {}  # modality, or column of the catalog -> its weight

    options: Options

    @property
    def modalities(self) -> list[str]:
        return list(self.options.content)

    def fit(self, feedback: Feedback, fitting: Fitting) -> list[Epoch]:
        """Raises `DataError` for more items than a dense matrix can hold."""
        refuse_many_items("ease", feedback.items)
        gram_II = (feedback.likes.T @ feedback.likes).toarray()
        for name, weight in self.options.content.items():
            gram_II += np.float32(weight) * content_gram(feedback.vectors[name])
        gram_II[np.diag_indices(feedback.items)] += self.options.l2
        inverse_II = linalg.inv(gram_II, overwrite_a=True)
        weights_II = inverse_II / -inverse_II.diagonal()
        np.fill_diagonal(weights_II, 0)
        self.weights_II = weights_II
        return []

    def scores(self, user_B: np.ndarray, likes_BI: sparse.csr_array) -> np.ndarray:
        found_BI: np.ndarray = likes_BI @ self.weights_II
        return found_BI

    def similar(self, item_B: np.ndarray) -> np.ndarray:
        found_BI: np.ndarray = self.weights_II[item_B]
        return found_BI

    def arrays(self) -> dict[str, np.ndarray]:
        return {"weights": self.weights_II}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.weights_II = arrays["weights"]
