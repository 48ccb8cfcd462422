"""`multimodal_gcn`: a graph network over the clicks and over what looks and sounds alike, trained by a softmax over all items.

- The vectors of users and items spread over the graph of the clicks as in LightGCN (He et al., 2020, eq. 3 and 4).
- Those of items also spread once over a graph that joins each item to its nearest in every modality. It is made before training and
  stays as it is, as in FREEDOM (Zhou and Shen, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal
  Recommendation", 2023). The mean over the modalities, times `content`, is added.
- The loss of each click is that of a softmax over all items, of the cosine of both vectors by a `temperature` (Wu et al., "On the
  Effectiveness of Sampled Softmax Loss for Item Recommendation", 2024, who draw the items).

An item that nobody clicked in training has no learned vector, and takes no part in the softmax, which would only learn that it was
not clicked: its vector comes from the items that look or sound like it.

To find the neighbours takes I^2 products, and a training step holds B I logits: the model suits up to about 100,000 items.

Shapes: B users, L likes, U users, I items, S numbers of a vector.
"""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor, nn
from torch.nn.functional import normalize

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.fitting import Network, StepOptions, TrainableOnUsers, Users
from rayrec.collaborative.graph import Graph, clicked_vectors, neighbour_graph, normalised, spread
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.vectors import VectorModel
from rayrec.config import Count, Modality


class MultimodalGCN(VectorModel):
    class Options(StepOptions):
        size: Count = 128
        epochs: Count = 60
        batch_size: Count = 1024  # users
        learning_rate: Annotated[float, Field(gt=0)] = 5e-3
        layers: Count = 2
        temperature: Annotated[float, Field(gt=0)] = 0.25
        modalities: list[Modality] = ["image", "audio"]
        neighbours: Count = 10  # of an item in each modality
        content: Annotated[float, Field(ge=0)] = 1.0  # weight of what comes from them

    options: Options

    @property
    def modalities(self) -> list[str]:
        return list(self.options.modalities)

    def trainable(self, feedback: Feedback, fitting: Fitting) -> TrainableOnUsers:
        graphs = [neighbour_graph(feedback.vectors[name], self.options.neighbours) for name in self.modalities]
        network = TwoGraphs(feedback.likes, graphs, self.options)
        return TrainableOnUsers(network.to(fitting.device), feedback, self.options, fitting)

    def clicked(self, network: Network, feedback: Feedback) -> np.ndarray:
        assert isinstance(network, TwoGraphs)
        return clicked_vectors([item_IS for _, item_IS in network.layers()], feedback.likes)


class TwoGraphs(Network[Users]):
    untouched_I: Tensor  # bool: items that nobody clicked

    def __init__(self, likes: sparse.csr_array, contents: list[sparse.csr_array], options: MultimodalGCN.Options) -> None:
        super().__init__()
        self.options = options
        self.clicks = Graph(normalised(likes))
        self.content = Graph(sparse.csr_array(sum(contents)) * (options.content / len(contents))) if contents else None
        self.register_buffer("untouched_I", torch.from_numpy(likes.sum(axis=0) == 0), persistent=False)
        self.user, self.item = (nn.Embedding(count, options.size) for count in likes.shape)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """The vectors of users and items of each layer over the clicks."""
        return spread(self.clicks, self.user.weight, self._learned(), self.options.layers)

    def vectors(self) -> tuple[Tensor, Tensor]:
        users, items = zip(*self.layers(), strict=True)
        item_IS = torch.stack(items).mean(0)
        if self.content is not None:
            item_IS = item_IS + self.content(self._learned())
        return normalize(torch.stack(users).mean(0), dim=1), normalize(item_IS, dim=1)

    def losses(self, batch: Users) -> Tensor:
        users_US, items_IS = self.vectors()
        logits_BI = users_US[batch.user_B] @ (items_IS / self.options.temperature).T
        logits_BI = logits_BI.masked_fill(self.untouched_I, -torch.inf)
        return logits_BI.logsumexp(1)[batch.row_L] - logits_BI[batch.row_L, batch.item_L]

    def _learned(self) -> Tensor:
        return self.item.weight.masked_fill(self.untouched_I[:, None], 0)
