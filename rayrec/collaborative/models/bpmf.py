"""`bpmf`: Bayesian probabilistic matrix factorisation (Salakhutdinov and Mnih, 2008), by Gibbs sampling.

Ratings are mean + b_u + b_i + q_i . p_u + noise. Instead of one best set of vectors it draws many from their posterior and averages
what they predict; nothing has to be tuned, since penalties and noise are drawn as well. The prior of a user's or an item's vector
is linear in what is known of it (Simm et al., 2017): in fields of the tables `users` and `catalog`, and in who rated what, as in
SVD++ for users (Koren, 2008) and in Rendle et al. (2019) for both sides ("flipped"). Who rated what enters by its principal
components: the singular vectors of the matrix whose rows are what a user rated, or who rated an item, scaled to unit length.
Shapes: U users, I items, N ratings, S numbers of a vector, C components, K = S + 1: a vector and its offset.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, model_validator
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from rayrec.collaborative.gaussian_rows import GaussianRows
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.rating_model import RatingModel
from rayrec.collaborative.ratings import RatingData, Side
from rayrec.config import Count, Section
from rayrec.training.callbacks import Epoch
from rayrec.workspace.checkpoint import Checkpoint, CheckpointError

CHECKPOINT_S = 60.0  # between two checkpoints
MIN_VARIANCE = 1e-6  # of ratings that are all the same


class BPMF(RatingModel):
    class Options(Section):
        size: Count = 16  # numbers of a vector
        components: Annotated[int, Field(ge=0)] = 100  # of who rated what
        fields: bool = True  # whether priors depend on what the tables say of users and items
        epochs: Count = 300  # in each of which all vectors are drawn once
        burn_in: Annotated[int, Field(ge=0)] = 100  # epochs at the begin that don't count
        samples: Count = 100  # epochs, evenly spread over those that count, whose vectors are kept

        @model_validator(mode="after")
        def _some_count(self) -> "BPMF.Options":
            counting = self.epochs - self.burn_in
            if counting < self.samples:
                raise ValueError(f"samples={self.samples} are kept of epochs - burn_in = {counting} epochs; set more epochs")
            return self

    options: Options

    def fit_ratings(self, data: RatingData, fitting: Fitting) -> list[Epoch]:
        train, options = data.train, self.options
        generator = np.random.default_rng(fitting.seed)
        mean = float(train.rating.mean(dtype=np.float64))
        above_N = train.rating - mean
        who_rated_what = train.matrix(data.users, data.items, np.ones(len(train)))
        sides = (Side.of(train.user, train.item, data.users), Side.of(train.item, train.user, data.items))
        matrices = (who_rated_what, who_rated_what.T.tocsr())
        known = (data.user_fields_UF, data.item_fields_IF)
        facts = (
            [*([fields] if options.fields else []), components(matrix, options.components, fitting.seed)]
            for fields, matrix in zip(known, matrices, strict=True)
        )
        users, items = (GaussianRows(side, fact, options.size + 1, generator) for side, fact in zip(sides, facts, strict=True))
        chain = _Chain(users, items, generator, 1 / max(above_N.var(), MIN_VARIANCE))
        about = json.dumps([options.model_dump(), fitting.seed, data.users, data.items, len(train)])
        chain.resume(fitting.checkpoint, about)
        kept = set(np.linspace(options.burn_in, options.epochs - 1, options.samples).astype(int).tolist())
        saved_at = time.monotonic()
        for epoch in range(len(chain.epochs), options.epochs):
            started = time.monotonic()
            users.draw(_design(items.row_RK), above_N - items.row_RK[train.item, -1], chain.noise_precision)
            items.draw(_design(users.row_RK), above_N - users.row_RK[train.user, -1], chain.noise_precision)
            error_N = above_N - _products(users.row_RK, items.row_RK, train.user, train.item)
            chain.noise_precision = generator.gamma((1 + len(train)) / 2, 2 / (1 + error_N @ error_N))
            if epoch in kept:
                chain.samples.append((users.row_RK.astype(np.float32), items.row_RK.astype(np.float32)))
            speed = len(train) / (time.monotonic() - started)
            chain.epochs.append(Epoch(epoch + 1, float(error_N @ error_N) / len(train), speed))
            if fitting.checkpoint and not fitting.worker.rank and time.monotonic() - saved_at > CHECKPOINT_S:
                chain.save(fitting.checkpoint, about)
                saved_at = time.monotonic()
            fitting.callback.on_epoch(chain.epochs)
        self.set_vectors(mean, *map(_averaging, zip(*chain.samples, strict=True)))
        return chain.epochs


@dataclass
class _Chain:
    """How far the sampling is. Resumed from a checkpoint, it draws what it would have drawn without the interruption."""

    users: GaussianRows
    items: GaussianRows
    generator: np.random.Generator
    noise_precision: float
    epochs: list[Epoch] = field(default_factory=list)
    samples: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # the rows of users and items that are kept

    def save(self, checkpoint: Checkpoint, about: str) -> None:
        checkpoint.save(
            {
                "about": about,
                "sides": [self.users.state(), self.items.state()],
                "generator": json.dumps(self.generator.bit_generator.state),
                "noise_precision": float(self.noise_precision),
                "epochs": [epoch.to_json() for epoch in self.epochs],
                "samples": [[torch.from_numpy(rows) for rows in sample] for sample in self.samples],
            }
        )

    def resume(self, checkpoint: Checkpoint | None, about: str) -> None:
        """Go on from the checkpoint, where there is one. Raises `CheckpointError` for one of another model or of other data."""
        state = checkpoint.load() if checkpoint else None
        if checkpoint is None or state is None:
            return
        if state.get("about") != about:
            raise CheckpointError(f"{checkpoint.path}: a checkpoint of another config or other data; delete it to start anew")
        for side, saved in zip((self.users, self.items), state["sides"], strict=True):
            side.restore(saved)
        self.generator.bit_generator.state = json.loads(state["generator"])
        self.noise_precision = state["noise_precision"]
        self.epochs = [Epoch.from_json(facts) for facts in state["epochs"]]
        self.samples = [(users.numpy(), items.numpy()) for users, items in state["samples"]]


def components(matrix: sparse.csr_array, count: int, seed: int) -> np.ndarray:
    """The rows of a matrix of ones, scaled to unit length, by their first principal axes, not centred: [rows, count or fewer]."""
    length = np.sqrt(np.maximum(matrix.sum(axis=1), 1))
    scaled = sparse.diags_array(1 / length) @ matrix
    count = min(count, min(matrix.shape) - 1)
    if count < 1:
        return np.zeros((matrix.shape[0], 0))
    # ARPACK's Lanczos method starts again at random where the rank is low, which no seed governs.
    left, values, _ = randomized_svd(scaled, count, random_state=seed)
    found: np.ndarray = left * values
    return found


def _design(row_MK: np.ndarray) -> np.ndarray:
    """What multiplies the vector and the offset of the other side: the vector here, and 1."""
    return np.concatenate([row_MK[:, :-1], np.ones((len(row_MK), 1))], axis=1)


def _products(user_UK: np.ndarray, item_IK: np.ndarray, user_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
    user_NK, item_NK = user_UK[user_N], item_IK[item_N]
    found: np.ndarray = user_NK[:, -1] + item_NK[:, -1] + np.einsum("ns,ns->n", user_NK[:, :-1], item_NK[:, :-1])
    return found


def _averaging(samples: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean offset, and all vectors side by side, so scaled that a product of two rows is the mean of the samples' products."""
    offset = np.mean([rows[:, -1] for rows in samples], axis=0)
    return offset, np.concatenate([rows[:, :-1] for rows in samples], axis=1) / np.float32(np.sqrt(len(samples)))
