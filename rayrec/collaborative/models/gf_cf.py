"""`gf_cf`: a filter on the graph of users and items that keeps what is smooth there.

Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM 2021, equation 20. The clicks R are normalised by the
degrees of users and items, R~ = D_U^-1/2 R D_I^-1/2. A user with the clicks r scores the items by a linear filter and an ideal
low-pass filter:

    r R~^T R~  +  alpha  r D_I^-1/2 V V^T D_I^1/2

where V has the first singular vectors of R~. No matrix of items by items is made.

`weigh_both` multiplies the first part, too, by D_I^1/2, so that it favours what is clicked much as the second part does.
"""

from typing import Annotated

import numpy as np
from pydantic import Field
from scipy import sparse

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import CollaborativeModel, Fitting, clicked_alone
from rayrec.collaborative.singular_vectors import singular_vectors
from rayrec.collaborative.sparse_rows import from_arrays, to_arrays
from rayrec.config import Count, Section
from rayrec.training.callbacks import Epoch


class GraphFilterCF(CollaborativeModel):
    class Options(Section):
        alpha: Annotated[float, Field(ge=0)] = 0.3  # the weight of the low-pass filter
        factors: Count = 256  # singular vectors of the low-pass filter
        weigh_both: bool = False  # whether the linear filter is multiplied by the root of the items' clicks as well

    options: Options

    def fit(self, feedback: Feedback, fitting: Fitting) -> list[Epoch]:
        self.root_I = np.sqrt(feedback.likes.sum(axis=0)).astype(np.float32)
        root_U = np.sqrt(feedback.likes.sum(axis=1)).astype(np.float32)
        self.graph_UI = (sparse.diags_array(inverse(root_U)) @ feedback.likes @ sparse.diags_array(inverse(self.root_I))).tocsr()
        self.vectors_IS = singular_vectors(self.graph_UI, self.options.factors, fitting.seed)
        return []

    def scores(self, user_B: np.ndarray, likes_BI: sparse.csr_array) -> np.ndarray:
        linear_BI = ((likes_BI @ self.graph_UI.T) @ self.graph_UI).toarray()
        if self.options.weigh_both:
            linear_BI *= self.root_I
        smooth_BI = (likes_BI @ (inverse(self.root_I)[:, None] * self.vectors_IS)) @ (self.vectors_IS.T * self.root_I)
        found_BI: np.ndarray = linear_BI + np.float32(self.options.alpha) * smooth_BI
        return found_BI

    def similar(self, item_B: np.ndarray) -> np.ndarray:
        return self.scores(np.zeros(len(item_B), np.int32), clicked_alone(item_B, len(self.root_I)))

    def arrays(self) -> dict[str, np.ndarray]:
        return to_arrays(self.graph_UI) | {"vectors": self.vectors_IS, "root": self.root_I}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.graph_UI, self.vectors_IS, self.root_I = from_arrays(arrays), arrays["vectors"], arrays["root"]


def inverse(values: np.ndarray) -> np.ndarray:
    """1 / each value; 0 for 0."""
    found: np.ndarray = np.divide(1, values, out=np.zeros_like(values), where=values > 0)
    return found
