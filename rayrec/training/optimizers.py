"""Optimizers whose step costs as much as the rows that a batch touched, not as much as the whole table; and gradient clipping.

An embedding table with `sparse=True` gets a gradient that lists the rows it belongs to (a COO tensor). `LazyAdam` and `Ftrl` gather
those rows of the weights and of their state, update them as one small dense tensor, and write them back. A parameter with a dense
gradient is updated as a whole. Rows that a batch does not touch keep their weights and their state.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, softshrink
from torch.optim.adam import adam


def sparse_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters with sparse gradients, in the model's order: those of modules whose attribute `sparse` is true.

    `nn.Embedding(sparse=True)` is such a module. An attribute of the parameter would be lost by `copy.deepcopy`; that of a module
    is not.
    """
    owned = (module.parameters(recurse=False) for module in model.modules() if getattr(module, "sparse", False))
    return list(dict.fromkeys(parameter for parameters in owned for parameter in parameters if parameter.requires_grad))


def coalesce(gradient: Tensor) -> Tensor:
    """`gradient.coalesce()` of a table [rows, columns], but several times faster on a CPU, and always summed in the same order."""
    if gradient.is_coalesced():
        return gradient
    ids, values = gradient._indices()[0], gradient._values()
    if ids.is_cuda:
        # A field of two values has half a batch in one segment. Unlike torch's other segment sums, this is parallel within one.
        rows, inverse = torch.unique(ids, return_inverse=True)
        sums = torch.ops.aten.embedding_dense_backward(values, inverse, len(rows), -1, False)
    else:
        if bool((ids[1:] > ids[:-1]).all()):  # autograd does not keep the mark of what is coalesced already
            return sparse_rows(ids, values, gradient.shape)
        rows, order, starts = places_by_row(ids)
        sums = embedding_bag(order, values, starts, mode="sum")
    return sparse_rows(rows, sums, gradient.shape)


def sparse_rows(rows: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """The sparse gradient of a table of this shape, with values in distinct rows, which ascend."""
    return torch.sparse_coo_tensor(rows.long()[None], values, shape, is_coalesced=True, check_invariants=False)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their common L2 norm is at most `max_norm`, and return the norm before, on their device.

    It is `torch.nn.utils.clip_grad_norm_`, but also for sparse gradients, which are coalesced afterwards.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter.grad.is_sparse:
                parameter.grad = coalesce(parameter.grad)
            values.append(parameter.grad._values() if parameter.grad.is_sparse else parameter.grad)
    norm = nn.utils.get_total_norm(values)
    torch._foreach_mul_(values, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


class _RowWise(torch.optim.Optimizer, ABC):
    """Gathers the touched rows, lets a subclass update them, and writes them back."""

    moments: tuple[str, ...]
    """The names of a parameter's state tensors; each has its shape and starts at zero."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            rows, gradients = zip(*(_touched(parameter.grad) for parameter in parameters), strict=True)
            wholes = [(parameter, *self._moments(parameter)) for parameter in parameters]
            parts = [
                whole if row is None else [tensor.index_select(0, row) for tensor in whole]
                for row, whole in zip(rows, wholes, strict=True)
            ]
            self._update(group, parameters, gradients, *zip(*parts, strict=True))
            for row, whole, part in zip(rows, wholes, parts, strict=True):
                if row is not None:
                    for tensor, values in zip(whole, part, strict=True):
                        tensor.index_copy_(0, row, values)

    def _moments(self, parameter: nn.Parameter) -> list[Tensor]:
        state = self.state[parameter]
        if not state:
            state |= {name: torch.zeros_like(parameter) for name in self.moments}
        return [state[name] for name in self.moments]

    @abstractmethod
    def _update(
        self, group: dict[str, Any], parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], *parts: Sequence[Tensor]
    ) -> None:
        """Update in place, for each parameter, its touched weights (the first of `parts`) and moments (the others, in order)."""


class LazyAdam(_RowWise):
    """Adam (Kingma and Ba, 2015).

    For a dense gradient it is `torch.optim.Adam`: the same kernel, with weight decay as L2 in the gradient. A sparse gradient moves
    (and decays) only the rows that it lists, by the same formula; where it lists every row, both kinds agree. The moments of a row
    do not change while no batch touches it; the bias correction counts the steps of the parameter, not those of the row, as in
    `torch.optim.SparseAdam`.
    """

    moments = ("exp_avg", "exp_avg_sq")

    def __init__(self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float, weight_decay: float = 0.0) -> None:
        # "fused" tells torch's load_state_dict to keep the count of steps on the device of the weights.
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "fused": True})

    def _update(
        self, group: dict[str, Any], parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], *parts: Sequence[Tensor]
    ) -> None:
        weights, means, squares = map(list, parts)
        steps = [self._steps(parameter) for parameter in parameters]
        adam(
            weights, list(gradients), means, squares, [], steps,
            lr=group["lr"], weight_decay=group["weight_decay"], fused=group["fused"],
            beta1=0.9, beta2=0.999, eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip

    def _steps(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "step" not in state:
            state["step"] = torch.zeros((), device=parameter.device)
        return state["step"]


class Ftrl(_RowWise):
    """FTRL-proximal per coordinate (McMahan et al., "Ad Click Prediction: a View from the Trenches", 2013, Algorithm 1).

    The weights are the algorithm's w, kept beside z and n so that a lookup needs no arithmetic. As in the paper, they should start
    at zero. The learning rate of a coordinate is alpha / (beta + sqrt(n)). Where |z| <= `l1` the weight is exactly zero.
    """

    moments = ("z", "n")

    def __init__(
        self, params: Iterable[nn.Parameter], alpha: float = 0.1, beta: float = 1.0, l1: float = 0.0, l2: float = 0.0
    ) -> None:
        super().__init__(params, {"alpha": alpha, "beta": beta, "l1": l1, "l2": l2})

    def _update(
        self, group: dict[str, Any], parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], *parts: Sequence[Tensor]
    ) -> None:
        for gradient, weight, z, n in zip(gradients, *parts, strict=True):
            before = n.sqrt()
            after = n.addcmul_(gradient, gradient).sqrt()
            z.add_(gradient).addcmul_(after - before, weight, value=-1 / group["alpha"])
            weight.copy_(softshrink(z, group["l1"]) / (-(group["beta"] + after) / group["alpha"] - group["l2"]))


def _touched(gradient: Tensor) -> tuple[Tensor | None, Tensor]:
    """The rows that a gradient lists (None: all rows) and their gradients."""
    if not gradient.is_sparse:
        return None, gradient
    gradient = coalesce(gradient)
    return gradient._indices()[0], gradient._values()


def places_by_row(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct row indices on a CPU, ascending; the places of all in this order; and where in it the places of each begin."""
    ordered, order = sort_rows(rows)
    distinct, counts = torch.unique_consecutive(ordered, return_counts=True)
    return distinct, order, counts.cumsum(0) - counts


def sort_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row indices on a CPU (below 2**32) in ascending order, and the position at which each was before; a stable sort."""
    # NumPy sorts integers of 16 bits in linear time (a radix sort), which is up to eight times as fast as sorting those of 64.
    keys = rows.numpy()
    order = keys.astype(np.uint16).argsort(kind="stable")
    if len(keys) and keys.max() >= 1 << 16:
        order = order[(keys >> 16)[order].astype(np.uint16).argsort(kind="stable")]
    positions = torch.from_numpy(order)
    return rows.index_select(0, positions), positions
