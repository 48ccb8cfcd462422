"""`bpmf`: Bayesian probabilistic matrix factorisation (Salakhutdinov and Mnih, 2008), by Gibbs sampling.

Ratings are mean + b_u + b_i + q_i . p_u + noise. Instead of one best set of vectors it draws many from their posterior and averages
what they predict; nothing has to be tuned, since penalties and noise are drawn as well. The prior of a user's or an item's vector
is linear in what is known of it (Simm et al., 2017): in fields of the tables `users` and `catalog`, and in who rated what, as in
SVD++ for users (Koren, 2008) and in Rendle et al. (2019) for both sides ("flipped"). Who rated what enters by its principal
components: the singular vectors of the matrix whose rows are what a user rated, or who rated an item, scaled to unit length.
Shapes: U users, I items, N ratings, S numbers of a vector, C components, K = S + 1: a vector and its offset.
"""

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator
from scipy import sparse
from scipy.sparse.linalg import svds

from rayrec.collaborative.gaussian_rows import GaussianRows
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.rating_model import RatingModel
from rayrec.collaborative.ratings import RatingData, Side
from rayrec.config import Count, Section
from rayrec.training.callbacks import Epoch


class BPMF(RatingModel):
    class Options(Section):
        size: Count = 32  # numbers of a vector
        components: Annotated[int, Field(ge=0)] = 100  # of who rated what
        sweeps: Count = 400  # over all vectors
        burn_in: Annotated[int, Field(ge=0)] = 100  # sweeps at the begin that don't count
        samples: Count = 60  # sweeps, evenly spread over those that count, whose vectors are kept

        @model_validator(mode="after")
        def _some_count(self) -> "BPMF.Options":
            if self.sweeps - self.burn_in < self.samples:
                raise ValueError(
                    f"samples={self.samples} are kept of sweeps - burn_in = {self.sweeps - self.burn_in} sweeps; do more"
                )
            return self

    options: Options

    def fit_ratings(self, data: RatingData, fitting: Fitting) -> list[Epoch]:
        train, options = data.train, self.options
        generator = np.random.default_rng(fitting.seed)
        mean = float(train.rating.mean(dtype=np.float64))
        above_N = train.rating - mean
        who_rated_what = train.matrix(data.users, data.items, np.ones(len(train)))
        sides = (Side.of(train.user, train.item, data.users), Side.of(train.item, train.user, data.items))
        facts = (
            [data.user_fields_UF, components(who_rated_what, options.components, fitting.seed)],
            [data.item_fields_IF, components(who_rated_what.T.tocsr(), options.components, fitting.seed)],
        )
        users, items = (GaussianRows(side, fact, options.size + 1, generator) for side, fact in zip(sides, facts, strict=True))
        kept = set(np.linspace(options.burn_in, options.sweeps - 1, options.samples).astype(int).tolist())
        user_samples, item_samples = [], []
        noise_precision = 1 / above_N.var()
        for sweep in range(options.sweeps):
            users.draw(_design(items.row_RK), above_N - items.row_RK[train.item, -1], noise_precision)
            items.draw(_design(users.row_RK), above_N - users.row_RK[train.user, -1], noise_precision)
            error_N = above_N - _products(users.row_RK, items.row_RK, train.user, train.item)
            noise_precision = generator.gamma((1 + len(train)) / 2, 2 / (1 + error_N @ error_N))
            if sweep in kept:
                user_samples.append(users.row_RK.astype(np.float32))
                item_samples.append(items.row_RK.astype(np.float32))
        self.set_vectors(mean, _averaging(user_samples), _averaging(item_samples))
        return []


def components(matrix: sparse.csr_array, count: int, seed: int) -> np.ndarray:
    """The rows of a matrix of ones, scaled to unit length, by their first principal axes, not centred: [rows, count or fewer]."""
    length = np.sqrt(np.maximum(matrix.sum(axis=1), 1))
    scaled = sparse.diags_array(1 / length) @ matrix
    count = min(count, min(matrix.shape) - 1)
    if count < 1:
        return np.zeros((matrix.shape[0], 0))
    left, values, _ = svds(scaled, count, rng=np.random.default_rng(seed))
    found: np.ndarray = left * values
    return found


def _design(row_MK: np.ndarray) -> np.ndarray:
    """What multiplies the vector and the offset of the other side: the vector here, and 1."""
    return np.concatenate([row_MK[:, :-1], np.ones((len(row_MK), 1))], axis=1)


def _products(user_UK: np.ndarray, item_IK: np.ndarray, user_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
    user_NK, item_NK = user_UK[user_N], item_IK[item_N]
    found: np.ndarray = user_NK[:, -1] + item_NK[:, -1] + np.einsum("ns,ns->n", user_NK[:, :-1], item_NK[:, :-1])
    return found


def _averaging(samples: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean offset, and all vectors side by side, so scaled that a product of two rows is the mean of the samples' products."""
    offset = np.mean([rows[:, -1] for rows in samples], axis=0)
    return offset, np.concatenate([rows[:, :-1] for rows in samples], axis=1) / np.float32(np.sqrt(len(samples)))
