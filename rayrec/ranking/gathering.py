"""Rows of a matrix by number, many of them often, with gradients that are quick on a CPU and the same in every run.

Backwards, gathering is a sum over all places at which a row was used. torch adds them one by one; here the places are sorted by row
and each row's gradients summed in one piece, which on a CPU is two to four times as fast (`docs/lab-notes.md`).
"""

from typing import Any

import torch
from torch.nn.functional import embedding_bag

from rayrec.training.optimizers import sort_rows


def distinct(rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The different row numbers among `rows` (all below `count`), ascending, and the place of each of `rows` among them."""
    if count > 64 * rows.numel():
        return torch.unique(rows, return_inverse=True)
    seen = torch.zeros(count, dtype=torch.bool, device=rows.device)
    seen[rows.flatten()] = True
    return seen.nonzero().squeeze(1), (seen.cumsum(0) - 1)[rows]


def gather(matrix: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """matrix[place]: [U, ...] at int64 [...] to [..., ...]."""
    rows, numbers = matrix.reshape(len(matrix), -1), place.flatten()
    found = rows.index_select(0, numbers) if matrix.is_cuda else _Gather.apply(rows, numbers)
    return found.view(*place.shape, *matrix.shape[1:])


def weighted_sum(matrix_UX: torch.Tensor, index_BH: torch.Tensor, weight_BH: torch.Tensor) -> torch.Tensor:
    """The sum over h of weight[b, h] * matrix[place[b, h]]: [B, X]; [B, H, X] is not made. The weights get no gradient."""
    if matrix_UX.is_cuda:
        return embedding_bag(index_BH, matrix_UX, mode="sum", per_sample_weights=weight_BH)
    return _WeightedSum.apply(matrix_UX, index_BH, weight_BH)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(place)
        ctx.rows = len(matrix)
        return matrix.index_select(0, place)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        order, start_U = _places_by_row(ctx.saved_tensors[0], ctx.rows)
        return embedding_bag(order, gradient, start_U, mode="sum"), None


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor, place: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(place, weight)
        ctx.rows = len(matrix)
        return embedding_bag(place, matrix, mode="sum", per_sample_weights=weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        place, weight = ctx.saved_tensors
        order, start_U = _places_by_row(place.flatten(), ctx.rows)
        line = order // place.shape[1]
        return embedding_bag(line, gradient, start_U, mode="sum", per_sample_weights=weight.flatten()[order]), None, None


def _places_by_row(place: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The places sorted by the row that they hold, and where each row's begin."""
    counts = torch.bincount(place, minlength=rows)
    return sort_rows(place)[1], counts.cumsum(0) - counts
