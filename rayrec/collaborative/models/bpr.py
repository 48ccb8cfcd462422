"""`bpr`: matrix factorisation that learns to rank what was clicked above what was not.

Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback" (2009), section 4.3.1: a user likes an item by p_u q_i +
b_i, and -ln sigmoid of the difference between a clicked item and a drawn one is minimised (BPR-Opt, section 4.1). Adam on batches
stands in for their SGD.

A new user gets the vector that those with the same clicks have: W, the ridge regression of the users' vectors on the sums of the
vectors of their clicked items.

Shapes: P pairs, U users, I items, S numbers of a vector.
"""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.fitting import Network, Pairs, StepOptions, TrainableOnPairs
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.vectors import VectorModel


class BPR(VectorModel):
    class Options(StepOptions):
        learning_rate: Annotated[float, Field(gt=0)] = 5e-3
        regularisation: Annotated[float, Field(ge=0)] = 1e-2  # of the vectors of each pair, lambda of Rendle et al.
        ridge: Annotated[float, Field(gt=0)] = 1.0  # of the regression that gives new users their vectors

    options: Options

    def trainable(self, feedback: Feedback, fitting: Fitting) -> TrainableOnPairs:
        network = Factorisation(feedback.users, feedback.items, self.options.size, self.options.regularisation)
        return TrainableOnPairs(network.to(fitting.device), feedback, self.options, fitting)

    def clicked(self, network: Network, feedback: Feedback) -> np.ndarray:
        sums_US = feedback.likes @ self.items_IS
        ridge = self.options.ridge * np.eye(sums_US.shape[1])
        weights_SS = np.linalg.solve(sums_US.T @ sums_US + ridge, sums_US.T @ self.users_US)
        return (self.items_IS @ weights_SS).astype(np.float32)


class Factorisation(Network[Pairs]):
    """The last number of an item's vector is its bias, and that of a user's is 1."""

    def __init__(self, users: int, items: int, size: int, regularisation: float) -> None:
        super().__init__()
        self.regularisation = regularisation
        self.user, self.item = nn.Embedding(users, size, sparse=True), nn.Embedding(items, size + 1, sparse=True)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)
        nn.init.zeros_(self.item.weight[:, -1])

    def vectors(self) -> tuple[Tensor, Tensor]:
        user_US = self.user.weight
        return torch.cat([user_US, torch.ones_like(user_US[:, :1])], 1), self.item.weight

    def losses(self, batch: Pairs) -> Tensor:
        # One lookup for both items, since each costs a sum of gradients by row.
        user, items = self.user(batch.user), self.item(torch.cat([batch.item, batch.negative]))
        item, negative = items.chunk(2)
        apart = item - negative
        gap_P = (user * apart[:, :-1]).sum(1) + apart[:, -1]
        square_P = user.square().sum(1) + items.square().sum(1).view(2, -1).sum(0)
        return softplus(-gap_P) + self.regularisation / 2 * square_P
