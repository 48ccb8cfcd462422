"""The base of the models that end in a vector for each user and each item.

Shapes: B users or items of a call, U users, I items, S numbers of a vector.
"""

from abc import abstractmethod

import numpy as np
import torch
from scipy import sparse

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.fitting import Network, StepOptions, TrainableVectors
from rayrec.collaborative.model import CollaborativeModel, Factors, Fitting
from rayrec.training.callbacks import Epoch
from rayrec.training.exchange import share_weights
from rayrec.training.trainer import Trainer


class VectorModel(CollaborativeModel):
    """The score of a pair is the product of its vectors.

    A user whom training did not see, and one item as a query, have the sum of the `clicked` vectors of their items.
    """

    users_US: np.ndarray
    items_IS: np.ndarray
    clicked_IS: np.ndarray

    @abstractmethod
    def trainable(self, feedback: Feedback, fitting: Fitting) -> TrainableVectors:
        """An untrained network on its device, with its batches. What is random of it follows from torch's seed."""

    @abstractmethod
    def clicked(self, network: Network, feedback: Feedback) -> np.ndarray:
        """The `clicked` vectors [I, S] of a trained network, whose `users_US` and `items_IS` this model has by now."""

    def fit(self, feedback: Feedback, fitting: Fitting) -> list[Epoch]:
        assert isinstance(self.options, StepOptions)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fitting.seed)
            trainable = self.trainable(feedback, fitting)
        share_weights(trainable.network, fitting.worker)
        trainer = Trainer(
            self.options.epochs,
            fitting.seed,
            self.options.patience,
            device=fitting.device,
            worker=fitting.worker,
            callback=fitting.callback,
            checkpoint=fitting.checkpoint,
        )
        epochs = trainer.fit(trainable)
        with torch.no_grad():
            self.users_US, self.items_IS = (vectors.cpu().numpy() for vectors in trainable.network.eval().vectors())
            self.clicked_IS = self.clicked(trainable.network, feedback)
        return epochs

    def scores(self, user_B: np.ndarray, likes_BI: sparse.csr_array) -> np.ndarray:
        new_BS = likes_BI @ self.clicked_IS
        return np.where(user_B[:, None] > 0, self.users_US[user_B], new_BS) @ self.items_IS.T

    def similar(self, item_B: np.ndarray) -> np.ndarray:
        return self.clicked_IS[item_B] @ self.items_IS.T

    def factors(self) -> Factors:
        return Factors(self.clicked_IS, self.items_IS)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"users": self.users_US, "items": self.items_IS, "clicked": self.clicked_IS}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.users_US, self.items_IS, self.clicked_IS = arrays["users"], arrays["items"], arrays["clicked"]
