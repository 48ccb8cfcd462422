"""`two_tower`: a tower of users and a tower of items, trained by a softmax over the items of each batch.

Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (2019): both towers end in vectors of
length 1, whose product over a `temperature` is the logit of a click (section 3.2). The other items of the batch are what was not
clicked, and since they come up as often as they are clicked, log Q(i), the logarithm of an item's share of the clicks, is taken off
its logit (eq. 3 and 4). The shares are known here and need not be estimated from a stream. A click on the same item elsewhere in
the batch is left out.

An item's vector is e_i + f(c_i): what is learned of its id, and a multilayer perceptron of its content. A user's is the sum of
h_j = e'_j + g(c_j) over the clicked items j, without the item that is to be predicted. So new users have a vector from the first
click on, and items that nobody has clicked have theirs from their content alone, if there are `modalities`.

Shapes: P clicks of a batch, M of the batch of all workers, U users, I items, D numbers of content, S numbers of a vector.
"""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor, nn
from torch.nn.functional import normalize

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.fitting import InBatch, Network, StepOptions, TrainableInBatch
from rayrec.collaborative.graph import Graph
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.vectors import VectorModel
from rayrec.config import Count, Modality


class TwoTower(VectorModel):
    class Options(StepOptions):
        batch_size: Count = 1024  # clicks, each of which is told from all others
        learning_rate: Annotated[float, Field(gt=0)] = 5e-3
        temperature: Annotated[float, Field(gt=0)] = 0.1
        modalities: list[Modality] = []  # vectors from which the towers know the content of an item
        hidden: Count = 128  # units of the layer between content and vector

    options: Options

    @property
    def modalities(self) -> list[str]:
        return list(self.options.modalities)

    def trainable(self, feedback: Feedback, fitting: Fitting) -> TrainableInBatch:
        contents = [feedback.vectors[name] for name in self.modalities]
        network = Towers(feedback.likes, contents, self.options)
        return TrainableInBatch(network.to(fitting.device), feedback, self.options, fitting)

    def clicked(self, network: Network, feedback: Feedback) -> np.ndarray:
        assert isinstance(network, Towers)
        found: np.ndarray = network.history().cpu().numpy()
        return found


class Towers(Network[InBatch]):
    log_share_I: Tensor  # of the clicks
    alone_U1: Tensor  # bool: users with a single click

    def __init__(self, likes: sparse.csr_array, contents: list[np.ndarray], options: TwoTower.Options) -> None:
        super().__init__()
        self.temperature = options.temperature
        self.likes = Graph(likes)
        clicks_I = torch.from_numpy(likes.sum(axis=0)).float()
        self.register_buffer("log_share_I", torch.log(clicks_I / clicks_I.sum()), persistent=False)
        alone_U = torch.from_numpy(np.diff(likes.indptr) == 1)
        self.register_buffer("alone_U1", alone_U[:, None], persistent=False)
        units = [vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) for vectors in contents]
        content_ID = torch.from_numpy(np.concatenate([np.zeros((len(clicks_I), 0), np.float32), *units], axis=1))
        self.history, self.item = (Tower(clicks_I > 0, content_ID, options.hidden, options.size) for _ in range(2))

    def vectors(self) -> tuple[Tensor, Tensor]:
        return normalize(self.likes(self.history()), dim=1), normalize(self.item(), dim=1)

    def losses(self, batch: InBatch) -> Tensor:
        history_IS, item_IS = self.history(), normalize(self.item(), dim=1)
        others_PS = self.likes(history_IS)[batch.user] - history_IS[batch.item]
        # Of who clicked nothing else, this is 0, and the gradient of its direction is without bound.
        user_PS = normalize(others_PS.masked_fill(self.alone_U1[batch.user], 0), dim=1)
        logits_PM = user_PS @ (item_IS[batch.items] / self.temperature).T - self.log_share_I[batch.items]
        own = torch.zeros_like(logits_PM, dtype=torch.bool)
        own[torch.arange(len(own), device=own.device), batch.place] = True
        logits_PM = logits_PM.masked_fill((batch.item[:, None] == batch.items) & ~own, -torch.inf)
        return logits_PM.logsumexp(1) - logits_PM[own]


class Tower(nn.Module):
    """A vector for each item: of its id, if anybody clicked it in training, and of its content, if it has some."""

    clicked_I1: Tensor
    content_ID: Tensor
    known_I1: Tensor

    def __init__(self, clicked_I: Tensor, content_ID: Tensor, hidden: int, size: int) -> None:
        super().__init__()
        self.ids = nn.Embedding(len(clicked_I), size)
        nn.init.normal_(self.ids.weight, std=0.1)
        for name, values in (("clicked_I1", clicked_I), ("known_I1", content_ID.any(dim=1))):
            self.register_buffer(name, values[:, None].float(), persistent=False)
        self.register_buffer("content_ID", content_ID, persistent=False)
        sizes = content_ID.shape[1], hidden, size
        self.content = nn.Sequential(nn.Linear(*sizes[:2]), nn.ReLU(), nn.Linear(*sizes[1:])) if sizes[0] else None

    def forward(self) -> Tensor:
        """[I, S]"""
        vector_IS: Tensor = self.ids.weight * self.clicked_I1
        return vector_IS if self.content is None else vector_IS + self.content(self.content_ID) * self.known_I1
