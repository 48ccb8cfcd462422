"""Graphs of users and items: how vectors spread along their edges, and which edges content adds.

Shapes: R rows and C columns of a graph's matrix, E its edges, U users, I items, D numbers of content, P items that have some,
S numbers of a vector.
"""

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

ROWS_AT_ONCE = 1024  # whose likeness to all items is in memory at once


class Graph(nn.Module):
    """A sparse matrix whose product with a dense one has a gradient, on a CPU and on a GPU, the same in every run.

    It moves with the module that has it, and is no part of its state dict.
    """

    def __init__(self, matrix: sparse.csr_array) -> None:
        super().__init__()
        for name, form in (("forth", matrix), ("back", sparse.csr_array(matrix.T))):
            form.sort_indices()
            self.register_buffer(f"{name}_start", torch.from_numpy(form.indptr.astype(np.int64)), persistent=False)
            self.register_buffer(f"{name}_column_E", torch.from_numpy(form.indices.astype(np.int64)), persistent=False)
            self.register_buffer(f"{name}_weight_E", torch.from_numpy(form.data.astype(np.float32)), persistent=False)

    def forward(self, x_CS: Tensor) -> Tensor:
        """The product of the matrix [R, C] and vectors [C, S]."""
        return _Product.apply(x_CS, *self._form("forth"), *self._form("back"))

    def reverse(self, x_RS: Tensor) -> Tensor:
        """The product of the transposed matrix [C, R] and vectors [R, S]."""
        return _Product.apply(x_RS, *self._form("back"), *self._form("forth"))

    def _form(self, name: str) -> tuple[Tensor, ...]:
        return tuple(getattr(self, f"{name}_{part}") for part in ("column_E", "start", "weight_E"))


class _Product(torch.autograd.Function):
    """torch's own sparse product is in beta, warns, and is no faster on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, column: Tensor, start: Tensor, weight: Tensor, *back: Tensor) -> Tensor:
        ctx.back = back
        return _product(x, column, start, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _product(gradient, *ctx.back), *[None] * 6


def _product(x: Tensor, column_E: Tensor, start: Tensor, weight_E: Tensor) -> Tensor:
    return embedding_bag(column_E, x, start, mode="sum", per_sample_weights=weight_E, include_last_offset=True)


def normalised(matrix: sparse.csr_array) -> sparse.csr_array:
    """Each entry divided by the roots of the sums of its row and of its column (He et al., LightGCN, 2020, eq. 3)."""
    rows, columns = (np.maximum(matrix.sum(axis=axis), 1e-12) ** -0.5 for axis in (1, 0))
    entries = matrix.tocoo()
    values = entries.data * rows[entries.row] * columns[entries.col]
    return sparse.csr_array((values.astype(np.float32), (entries.row, entries.col)), shape=matrix.shape)


def neighbour_graph(vectors_ID: np.ndarray, count: int) -> sparse.csr_array:
    """Each item's `count` most similar items by the cosine of their centred vectors, normalised: float32 [I, I].

    It is the frozen graph of FREEDOM (Zhou and Shen, 2023). An item without a vector (zeros) has no neighbours.
    """
    present = np.flatnonzero(vectors_ID.any(axis=1))
    count = min(count, len(present) - 1)
    if count < 1:
        return sparse.csr_array((len(vectors_ID),) * 2, dtype=np.float32)
    unit_PD = vectors_ID[present] - vectors_ID[present].mean(axis=0)
    unit_PD /= np.maximum(np.linalg.norm(unit_PD, axis=1, keepdims=True), 1e-12)
    nearest = []
    for start in range(0, len(present), ROWS_AT_ONCE):
        likeness_RP = unit_PD[start : start + ROWS_AT_ONCE] @ unit_PD.T
        rows = np.arange(len(likeness_RP))
        likeness_RP[rows, start + rows] = -np.inf
        nearest.append(np.argpartition(-likeness_RP, count - 1, axis=1)[:, :count])
    pairs = np.repeat(present, count), present[np.concatenate(nearest).ravel()]
    return normalised(sparse.csr_array((np.ones(len(pairs[0]), np.float32), pairs), shape=(len(vectors_ID),) * 2))


def spread(graph: Graph, user_US: Tensor, item_IS: Tensor, layers: int) -> list[tuple[Tensor, Tensor]]:
    """The vectors of users and items of each layer, the given ones first."""
    found = [(user_US, item_IS)]
    for _ in range(layers):
        user_US, item_IS = graph(item_IS), graph.reverse(user_US)
        found.append((user_US, item_IS))
    return found


def clicked_vectors(layers_of_items: list[Tensor], likes: sparse.csr_array) -> np.ndarray:
    """What one more propagation brings to a user from each item: the item's vectors of all layers but the last, over sqrt(|N(i)|).

    The division by the root of the user's own clicks is left out, since it changes no order of items.
    """
    clicks_I = np.maximum(likes.sum(axis=0), 1)
    mean_IS = torch.stack(layers_of_items[:-1]).sum(0).cpu().numpy() / len(layers_of_items)
    return (mean_IS / np.sqrt(clicks_I)[:, None]).astype(np.float32)
