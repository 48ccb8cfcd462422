"""The interface of every collaborative model: it is fitted to feedback, and scores all items for users, or beside other items.

Shapes: B users or items of a call, U users, I items (both count index 0), S numbers of a vector.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from rayrec.collaborative.feedback import Feedback
from rayrec.config import Section
from rayrec.registry import NoOptions
from rayrec.training.callbacks import NO_CALLBACK, Epoch, TrainingCallback
from rayrec.training.exchange import SINGLE, Worker
from rayrec.training.trainer import CPU
from rayrec.workspace.checkpoint import Checkpoint


@dataclass(frozen=True)
class Fitting:
    """How and where a model is fitted. Those in closed form need the seed at most."""

    seed: int = 0
    device: torch.device = CPU
    worker: Worker = SINGLE
    callback: TrainingCallback = NO_CALLBACK
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class Factors:
    """Vectors by which recall serves a model: a user is the sum of the `clicked` vectors of the items that they clicked, and likes
    an item by the dot product of that sum with its `candidate` vector. New clicks and new users therefore count at once.
    """

    clicked: np.ndarray  # float32 [I, S]
    candidate: np.ndarray  # float32 [I, S]


def clicked_alone(item_B: np.ndarray, items: int) -> sparse.csr_array:
    """The clicks of users who have clicked one item and nothing else: float32 [B, I].

    A model's scores for them say what goes with the item.
    """
    rows = len(item_B)
    return sparse.csr_array((np.ones(rows, np.float32), np.asarray(item_B), np.arange(rows + 1)), shape=(rows, items))


class CollaborativeModel(ABC):
    """The base of `models/`. `Options` are the settings that a model alone has: `collaborative.options` in the config."""

    Options: type[Section] = NoOptions

    def __init__(self, options: Section) -> None:
        self.options = options

    @property
    def epochs(self) -> int:
        """The most epochs of its training: `options.epochs`. A model without them has a closed form, in which no seed counts."""
        return int(getattr(self.options, "epochs", 0))

    @property
    def modalities(self) -> list[str]:
        """The vectors that `Feedback.vectors` must have: modalities, or columns of the catalog."""
        return []

    @abstractmethod
    def fit(self, feedback: Feedback, fitting: Fitting) -> list[Epoch]:
        """Learn from the feedback, and return the epochs; none where the solution has a closed form."""

    @abstractmethod
    def scores(self, user_B: np.ndarray, likes_BI: sparse.csr_array) -> np.ndarray:
        """How much each user would like each item: float32 [B, I], comparable within a row.

        `likes_BI` is what they have clicked so far. `user_B` has the index of each user, 0 for one whom the training did not see.
        """

    @abstractmethod
    def similar(self, item_B: np.ndarray) -> np.ndarray:
        """How well each item goes with some others: float32 [B, I], comparable within a row. `clicked_alone` suits many models."""

    def factors(self) -> Factors | None:
        """The model's vectors; None for a model that has none."""
        return None

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """All that was learned, by name."""

    @abstractmethod
    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what another instance with the same options has learned."""
