"""Gathers rows of a matrix by index, many of them often, with gradients that are fast on a CPU and the same in every run.

The gradient of a row is the sum over all positions at which the row was used. torch adds these one by one. Here the positions are
sorted by row, and the gradients of each row are summed in one piece, which is two to four times as fast on a CPU
(`docs/lab-notes.md`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding_bag

from rayrec.training.optimizers import places_by_row, sort_rows, sparse_rows


class Rows(nn.Module):
    """The rows of a tensor, looked up by index. More rows can be appended at the cost of those alone, without a copy of the others.

    They move with the module that has them, and are no part of its state dict.
    """

    first: torch.Tensor
    more: torch.Tensor

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("first", rows, persistent=False)
        self.register_buffer("more", rows[:0], persistent=False)

    def __len__(self) -> int:
        return len(self.first) + len(self.more)

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        """A copy of the rows at int64 [...]."""
        return self.of_columns(slice(None), index)

    def of_columns(self, columns: slice, index: torch.Tensor) -> torch.Tensor:
        """A copy of some columns of the rows at int64 [...]; the others are not read."""
        first, count = self.first[:, columns], len(self.first)
        if not len(self.more):
            return first.index_select(0, index.flatten()).view(*index.shape, *first.shape[1:])
        found = first[index.clamp(max=count - 1)]
        late = index >= count
        found[late] = self.more[:, columns][index[late] - count]
        return found

    def append(self, rows: torch.Tensor) -> None:
        """Rows of the same shape and type behind all others."""
        self.more = torch.cat([self.more, rows.to(self.more)])

    def drop(self) -> None:
        """Take away all rows that were appended."""
        self.more = self.more[:0]


def unique_rows(rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The distinct row indices among `rows` (all below `count`), ascending, and the position of each of `rows` among them."""
    if count > 64 * rows.numel():
        return torch.unique(rows, return_inverse=True)
    seen = torch.zeros(count, dtype=torch.bool, device=rows.device)
    flat = rows.flatten()  # `index_select` is faster than indexing with brackets
    seen.index_fill_(0, flat, True)
    return seen.nonzero().squeeze(1), (seen.cumsum(0) - 1).index_select(0, flat).view_as(rows)


def gather(matrix: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """matrix[index]: the rows of [U, ...] at int64 [...], which is [..., ...]."""
    rows, flat_index = matrix.reshape(len(matrix), -1), index.flatten()
    found = rows.index_select(0, flat_index) if matrix.is_cuda else _Gather.apply(rows, flat_index)
    return found.view(*index.shape, *matrix.shape[1:])


def weighted_sum(matrix_UX: torch.Tensor, index_BH: torch.Tensor, weight_BH: torch.Tensor) -> torch.Tensor:
    """The sum over h of weight[b, h] * matrix[index[b, h]]: [B, X], without a tensor [B, H, X]. The weights get no gradient."""
    if matrix_UX.is_cuda:
        return embedding_bag(index_BH, matrix_UX, mode="sum", per_sample_weights=weight_BH)
    return _WeightedSum.apply(matrix_UX, index_BH, weight_BH)


def field_sums(table: torch.Tensor, values_V: torch.Tensor, weight_V: torch.Tensor, start_G: torch.Tensor) -> torch.Tensor:
    """For each bag g of values the sum of weight[v] * table[values[v]]: [G, X]. The gradient of the table is sparse.

    `start_G` says where in `values_V` each bag begins; the first one begins at 0. The weights get no gradient.
    """
    if table.is_cuda:
        return embedding_bag(values_V, table, start_G, mode="sum", per_sample_weights=weight_V, sparse=True)
    return _FieldSums.apply(table, values_V, weight_V, start_G)


class _FieldSums(torch.autograd.Function):
    """Adds up the gradient of each row of the table at once; torch first lists one for each value."""

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, values: torch.Tensor, weight: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(values, weight, start)
        ctx.shape = table.shape
        return embedding_bag(values, table, start, mode="sum", per_sample_weights=weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        values, weight, start = ctx.saved_tensors
        rows, order, start_of_row = places_by_row(values)
        bag = torch.repeat_interleave(start.diff(append=start.new_tensor([len(values)]))).index_select(0, order)
        ordered = weight.index_select(0, order)
        sums = embedding_bag(bag.long(), gradient, start_of_row, mode="sum", per_sample_weights=ordered)
        return sparse_rows(rows, sums, ctx.shape), None, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.rows = len(matrix)
        return matrix.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        order, start_U = positions_by_row(ctx.saved_tensors[0], ctx.rows)
        return embedding_bag(order, gradient, start_U, mode="sum"), None


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index, weight)
        ctx.rows = len(matrix)
        return embedding_bag(index, matrix, mode="sum", per_sample_weights=weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        index, weight = ctx.saved_tensors
        order, start_U = positions_by_row(index.flatten(), ctx.rows)
        line = lines_of(index.shape, index.device).index_select(0, order)
        ordered = weight.flatten().index_select(0, order)
        return embedding_bag(line, gradient, start_U, mode="sum", per_sample_weights=ordered), None, None


def lines_of(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """The number of the line in which each place of a matrix stands, line by line; integer division takes ten times as long."""
    return torch.arange(shape[0], device=device)[:, None].expand(*shape).flatten()


def positions_by_row(index: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions in `index`, sorted by the row that they name, and where the positions of each row begin."""
    counts = torch.bincount(index, minlength=rows)
    return sort_rows(index)[1], counts.cumsum(0) - counts
