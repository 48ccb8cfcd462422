"""Gibbs sampling of the rows of a factor matrix, whose prior is Gaussian with a mean that is linear in what is known of each row.

    row_n ~ N(B^T x_n, L^-1),    B_f ~ N(0, (l_f L)^-1),    L ~ Wishart

The precision L, the coefficients B and the penalties l are drawn with the rows (Salakhutdinov and Mnih, 2008, section 3; Simm et
al., 2017). B is integrated out when L is drawn, so that the two are one draw from their joint posterior.
Shapes: R rows, F facts of a row, K numbers of a row, G groups of facts that have one penalty.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import solve_triangular

from rayrec.collaborative.ratings import Side

BLOCK = 4096  # rows whose Gram matrices are in memory at a time
INTERCEPT_PENALTY = 2.0  # of the mean row (Salakhutdinov and Mnih's beta_0)
DEVIATION = 0.1  # of the numbers that rows begin with


class GaussianRows:
    """The rows of users, or of items, and their prior."""

    def __init__(self, side: Side, groups: Sequence[np.ndarray], size: int, generator: np.random.Generator) -> None:
        """`groups` are matrices of facts, float [R, F of the group]."""
        self.side, self.generator = side, generator
        rows = len(side.indptr) - 1
        self.facts_RF = np.concatenate([np.ones((rows, 1)), *groups], axis=1, dtype=np.float64)
        self.group_F = np.repeat(np.arange(len(groups) + 1), [1, *(group.shape[1] for group in groups)])
        self.gram_FF = self.facts_RF.T @ self.facts_RF
        self.penalty_G = np.full(len(groups) + 1, INTERCEPT_PENALTY)
        self.row_RK = DEVIATION * generator.standard_normal((rows, size))
        self.mean_RK, self.precision_KK = np.zeros((rows, size)), np.eye(size)

    def state(self) -> dict[str, torch.Tensor]:
        """What the next draw depends on, beside the generator."""
        return {"rows": torch.from_numpy(self.row_RK.copy()), "penalties": torch.from_numpy(self.penalty_G.copy())}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.row_RK, self.penalty_G = state["rows"].numpy(), state["penalties"].numpy()

    def draw(self, design_MK: np.ndarray, target_N: np.ndarray, noise_precision: float) -> None:
        """Draw the prior given the rows, and then all rows given the ratings: target = design . row + noise."""
        self.draw_prior()
        for start in range(0, len(self.row_RK), BLOCK):
            rows = slice(start, min(start + BLOCK, len(self.row_RK)))
            gram_RKK, right_RK = self.side.normal_equations(rows, design_MK, target_N)
            precision_RKK = noise_precision * gram_RKK + self.precision_KK
            right_RK = noise_precision * right_RK + self.mean_RK[rows] @ self.precision_KK
            self.row_RK[rows] = draw_gaussians(precision_RKK, right_RK, self.generator)

    def draw_prior(self) -> None:
        size = self.row_RK.shape[1]
        penalty_F = self.penalty_G[self.group_F]
        root_FF = np.linalg.cholesky(self.gram_FF + np.diag(penalty_F))
        half_FK = solve_triangular(root_FF, self.facts_RF.T @ self.row_RK, lower=True)
        # What the best B leaves of the rows, with the penalty for B: A^T A - A^T X (X^T X + D)^-1 X^T A.
        scatter_KK = np.eye(size) + self.row_RK.T @ self.row_RK - half_FK.T @ half_FK
        self.precision_KK = draw_wishart(size + 1 + len(self.row_RK), np.linalg.inv(scatter_KK), self.generator)
        noise_FK = self.generator.standard_normal(half_FK.shape) @ np.linalg.inv(np.linalg.cholesky(self.precision_KK))
        coefficient_FK = solve_triangular(root_FF.T, half_FK + noise_FK, lower=False)
        self.mean_RK = self.facts_RF @ coefficient_FK
        squares_F = np.einsum("fk,kl,fl->f", coefficient_FK, self.precision_KK, coefficient_FK)
        for group in range(1, len(self.penalty_G)):
            mine = self.group_F == group
            self.penalty_G[group] = self.generator.gamma((1 + size * mine.sum()) / 2, 2 / (1 + squares_F[mine].sum()))


def draw_gaussians(precision_RKK: np.ndarray, right_RK: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """For each row a draw from the Gaussian with this precision, and with the mean precision^-1 right: [R, K]."""
    root_RKK = torch.linalg.cholesky(torch.from_numpy(precision_RKK))
    half_RK1 = torch.linalg.solve_triangular(root_RKK, torch.from_numpy(right_RK)[:, :, None], upper=False)
    noise_RK1 = torch.from_numpy(generator.standard_normal((*right_RK.shape, 1)))
    # NumPy has no solver for many triangular systems, and its general one takes ten times as long.
    found: np.ndarray = torch.linalg.solve_triangular(root_RKK.mT, half_RK1 + noise_RK1, upper=True)[:, :, 0].numpy()
    return found


def draw_wishart(degrees: float, scale_KK: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A draw with the mean degrees * scale, by Bartlett's decomposition: [K, K]."""
    size = len(scale_KK)
    triangle_KK = np.diag(np.sqrt(generator.chisquare(degrees - np.arange(size))))
    below = np.tril_indices(size, -1)
    triangle_KK[below] = generator.standard_normal(len(below[0]))
    root_KK = np.linalg.cholesky(scale_KK) @ triangle_KK
    found: np.ndarray = root_KK @ root_KK.T
    return found
