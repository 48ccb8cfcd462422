"""The loss of a softmax over all items, computed in place.

Shapes: B queries, K keys, S numbers of a vector.
"""

from typing import Any

import torch
from torch import Tensor


def log_sum_exp(queries_BS: Tensor, keys_KS: Tensor, bound: float) -> Tensor:
    """log(sum over the keys of exp(query * key)) of each query: [B].

    No product may be above `bound`, nor all products of a query more than about 80 below it. It equals
    `(queries @ keys.T).logsumexp(1)` and takes less than half of its time: one matrix of B x K is made and overwritten, where
    autograd would make a new one for each step.
    """
    found: Tensor = _LogSumExp.apply(queries_BS, keys_KS, bound)
    return found


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, bound: float) -> Tensor:
        weights = (queries @ keys.T).sub_(bound).exp_()
        sums = weights.sum(1)
        ctx.save_for_backward(queries, keys, sums)
        ctx.weights = weights
        return sums.log() + bound

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        queries, keys, sums = ctx.saved_tensors
        weights = ctx.weights.mul_((gradient / sums)[:, None])
        return weights @ keys, weights.T @ queries, None
