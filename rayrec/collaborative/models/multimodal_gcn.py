"""`multimodal_gcn`: a graph network over the clicks and over what looks and sounds alike, trained by a softmax over all items.

- The vectors of users and items spread over the graph of the clicks as in LightGCN (He et al., 2020, eq. 3 and 4).
- Those of items also spread once over a graph that joins each item to its nearest in every modality. It is made before training and
  stays as it is, as in FREEDOM (Zhou and Shen, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal
  Recommendation", 2023). The mean over the modalities, times `content`, is added.
- The loss of each click is that of a softmax over all items, of the cosine of both vectors by a `temperature` (Wu et al., "On the
  Effectiveness of Sampled Softmax Loss for Item Recommendation", 2024, who draw the items). With `balance` the clicks of a user
  with n of them weigh n^-balance, so that a few people who click much don't decide for all.
- The vectors start from the singular vectors of the graph of the clicks in place of random ones, which saves most of the epochs.
- What is measured and kept is a running mean of the learned vectors over the last steps (Polyak and Juditsky, 1992): batches differ
  much where a few people have most of the clicks.

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
from rayrec.collaborative.singular_vectors import singular_vectors
from rayrec.collaborative.softmax import log_sum_exp
from rayrec.collaborative.vectors import VectorModel
from rayrec.config import Count, Modality, Share

START_DEVIATION = 0.1
SMALLEST = 1e-4  # singular value, as a share of the largest: the vectors of smaller ones are rounding errors
AVERAGED = 0.9  # how much of the running mean a step keeps


class MultimodalGCN(VectorModel):
    class Options(StepOptions):
        size: Count = 128
        epochs: Count = 60
        patience: Count = 8
        batch_size: Count = 1024  # users
        learning_rate: Annotated[float, Field(gt=0)] = 5e-3
        layers: Count = 2
        temperature: Annotated[float, Field(ge=0.03)] = 0.25  # a lower one would take exp beyond float32
        balance: Share = 0.0  # 0: all clicks weigh the same; 1: all users do
        modalities: list[Modality] = ["image", "audio"]
        neighbours: Count = 10  # of an item in each modality
        content: Annotated[float, Field(ge=0)] = 1.0  # weight of what comes from them

    options: Options

    @property
    def modalities(self) -> list[str]:
        return list(self.options.modalities)

    def trainable(self, feedback: Feedback, fitting: Fitting) -> TrainableOnUsers:
        graphs = [neighbour_graph(feedback.vectors[name], self.options.neighbours) for name in self.modalities]
        network = TwoGraphs(feedback.likes, graphs, self.options, fitting.seed)
        trainable = TrainableOnUsers(network.to(fitting.device), feedback, self.options, fitting)
        trainable.optimizer.register_step_post_hook(lambda *_: network.average())
        return trainable

    def clicked(self, network: Network, feedback: Feedback) -> np.ndarray:
        assert isinstance(network, TwoGraphs)
        return clicked_vectors([item_IS for _, item_IS in network.layers()], feedback.likes)


class TwoGraphs(Network[Users]):
    touched_T: Tensor  # int64: the items that somebody clicked
    untouched_I: Tensor  # bool: the others
    weight_U: Tensor  # of each click of a user, 1 in the mean over all clicks
    user_mean: Tensor  # of `user` and `item` over the last steps: [U, S] and [I, S]
    item_mean: Tensor

    def __init__(
        self, likes: sparse.csr_array, contents: list[sparse.csr_array], options: MultimodalGCN.Options, seed: int
    ) -> None:
        super().__init__()
        self.options = options
        graph = normalised(likes)
        self.clicks = Graph(graph)
        self.content = Graph(sparse.csr_array(sum(contents)) * (options.content / len(contents))) if contents else None
        clicks_U = np.maximum(np.diff(likes.indptr), 1).astype(np.float32)
        weight_U = clicks_U**-options.balance
        weight_U *= likes.nnz / (weight_U @ np.diff(likes.indptr))
        untouched_I = torch.from_numpy(likes.sum(axis=0) == 0)
        touched_T = (~untouched_I).nonzero().squeeze(1)
        buffers = {"weight_U": torch.from_numpy(weight_U), "untouched_I": untouched_I, "touched_T": touched_T}
        for name, values in buffers.items():
            self.register_buffer(name, values, persistent=False)
        start = [torch.from_numpy(vectors) for vectors in spectral_start(graph, options.size, seed)]
        self.user, self.item = (nn.Embedding.from_pretrained(vectors, freeze=False) for vectors in start)
        for name, vectors in zip(("user_mean", "item_mean"), start, strict=True):
            self.register_buffer(name, vectors.clone())

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """The vectors of users and items of each layer over the clicks."""
        user_US = self.user.weight if self.training else self.user_mean
        return spread(self.clicks, user_US, self._learned(), self.options.layers)

    @torch.no_grad()
    def average(self) -> None:
        """Takes the latest step into the running means."""
        self.user_mean.lerp_(self.user.weight, 1 - AVERAGED)
        self.item_mean.lerp_(self.item.weight, 1 - AVERAGED)

    def vectors(self) -> tuple[Tensor, Tensor]:
        users, items = zip(*self.layers(), strict=True)
        item_IS = torch.stack(items).mean(0)
        if self.content is not None:
            item_IS = item_IS + self.content(self._learned())
        return normalize(torch.stack(users).mean(0), dim=1), normalize(item_IS, dim=1)

    def losses(self, batch: Users) -> Tensor:
        users_US, items_IS = self.vectors()
        queries_BS = users_US[batch.user_B] / self.options.temperature
        whole_B = log_sum_exp(queries_BS, items_IS[self.touched_T], 1 / self.options.temperature)
        logits_L = (queries_BS[batch.row_L] * items_IS[batch.item_L]).sum(1)
        return self.weight_U[batch.user_B[batch.row_L]] * (whole_B[batch.row_L] - logits_L)

    def _learned(self) -> Tensor:
        item_IS = self.item.weight if self.training else self.item_mean
        return item_IS.masked_fill(self.untouched_I[:, None], 0)


def spectral_start(graph_UI: sparse.csr_array, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of users and items whose products come nearest to a matrix: float32 [U, size] and [I, size].

    Both have a deviation of .1. Where the matrix has fewer singular vectors than that, the other columns are random.
    """
    items_IS = singular_vectors(graph_UI, size, seed)
    users_US = graph_UI @ items_IS
    values_S = np.linalg.norm(users_US, axis=0)
    kept_S = values_S > SMALLEST * values_S.max(initial=0)
    users_US, items_IS, roots_S = users_US[:, kept_S], items_IS[:, kept_S], np.sqrt(values_S[kept_S])
    rng, found = np.random.default_rng(seed), []
    for vectors in (users_US / roots_S, items_IS * roots_S):
        others = rng.standard_normal((len(vectors), size - items_IS.shape[1]))
        scaled = vectors / max(vectors.std(), 1e-12)
        found.append((START_DEVIATION * np.concatenate([scaled, others], axis=1)).astype(np.float32))
    return found[0], found[1]
