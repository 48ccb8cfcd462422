"""`lightgcn`: He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation" (2020).

The vectors of users and items spread over the graph of the clicks, whose edges weigh 1 / sqrt(|N(u)| |N(i)|) (eq. 3). The final
vector is the mean over all layers, the learned one included (eq. 4), and the loss is BPR's with L2 on the learned vectors (eq. 15).

A user whom training did not see has no learned vector; all else of theirs is what one more step of the same propagation brings.

Shapes: P pairs, U users, I items, S numbers of a vector.
"""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor, nn
from torch.nn.functional import softplus

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.fitting import Network, Pairs, StepOptions, TrainableOnPairs
from rayrec.collaborative.graph import Graph, clicked_vectors, normalised, spread
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.vectors import VectorModel
from rayrec.config import Count


class LightGCN(VectorModel):
    class Options(StepOptions):
        learning_rate: Annotated[float, Field(gt=0)] = 5e-3
        layers: Count = 3
        regularisation: Annotated[float, Field(ge=0)] = 1e-4  # of the learned vectors of each pair, lambda of eq. 15

    options: Options

    def trainable(self, feedback: Feedback, fitting: Fitting) -> TrainableOnPairs:
        network = Convolution(feedback.likes, self.options.size, self.options.layers, self.options.regularisation)
        return TrainableOnPairs(network.to(fitting.device), feedback, self.options, fitting)

    def clicked(self, network: Network, feedback: Feedback) -> np.ndarray:
        assert isinstance(network, Convolution)
        return clicked_vectors(network.layers_of_items(), feedback.likes)


class Convolution(Network[Pairs]):
    def __init__(self, likes: sparse.csr_array, size: int, layers: int, regularisation: float) -> None:
        super().__init__()
        self.graph, self.layers, self.regularisation = Graph(normalised(likes)), layers, regularisation
        self.user, self.item = (nn.Embedding(count, size) for count in likes.shape)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)  # as the authors' code

    def vectors(self) -> tuple[Tensor, Tensor]:
        users, items = zip(*spread(self.graph, self.user.weight, self.item.weight, self.layers), strict=True)
        return torch.stack(users).mean(0), torch.stack(items).mean(0)

    def layers_of_items(self) -> list[Tensor]:
        return [item_IS for _, item_IS in spread(self.graph, self.user.weight, self.item.weight, self.layers)]

    def losses(self, batch: Pairs) -> Tensor:
        users_US, items_IS = self.vectors()
        gap_P = (users_US[batch.user] * (items_IS[batch.item] - items_IS[batch.negative])).sum(1)
        learned = (self.user(batch.user), self.item(batch.item), self.item(batch.negative))
        return softplus(-gap_P) + self.regularisation / 2 * sum(vectors.square().sum(1) for vectors in learned)
