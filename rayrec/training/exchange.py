"""Synchronises gradients across workers without DDP, and gathers their predictions and counts.

Every worker calls the same function at the same point, with `torch.distributed` set up (gloo on CPUs, NCCL on GPUs) and all tensors
on the device of that backend. For a single worker the functions do nothing.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rayrec.training.optimizers import coalesce, sparse_parameters


@dataclass(frozen=True)
class Worker:
    """One of `world_size` processes that train one model together; each takes its share of every batch."""

    rank: int = 0
    world_size: int = 1


SINGLE = Worker()


@torch.no_grad()
def exchange_gradients(model: nn.Module, worker: Worker) -> None:
    """Replace each worker's gradients by the sum over all workers, bit for bit the same on each, so that weights stay equal.

    For the gradient of a mean over the global batch, the loss of a worker is the sum over its share, divided by the size of the
    global batch. A gradient that is None (an empty share, an unused parameter) counts as zero. The gradient of an embedding table
    travels as the rows that the batch touched.
    """
    if worker.world_size == 1:
        return
    tables = sparse_parameters(model)
    known = set(tables)
    dense = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in known]
    _add_dense(dense)
    _add_sparse(tables, worker)


def gather_rows(values: Tensor, worker: Worker) -> Tensor:
    """The rows of all workers, [rows of all, ...], on each worker, in the order of the workers; `values` are this worker's."""
    if worker.world_size == 1:
        return values
    lengths = _gather(torch.tensor([len(values)], device=values.device), 1, worker).flatten().tolist()
    everyone = _gather(values, max(lengths), worker)
    return torch.cat([rows[:length] for rows, length in zip(everyone, lengths, strict=True)])


def total(values: Tensor, worker: Worker) -> Tensor:
    """The sum of the tensors of all workers, on each."""
    if worker.world_size > 1:
        dist.all_reduce(values)
    return values


@torch.no_grad()
def share_weights(model: nn.Module, worker: Worker) -> None:
    """All workers take over the weights of the first: those that come from a decomposition may differ by rounding."""
    for weights in model.state_dict().values() if worker.world_size > 1 else ():
        dist.broadcast(weights, 0)


@torch.no_grad()
def average_statistics(model: nn.Module, worker: Worker) -> None:
    """Replace the running means and variances of batch norms, which each worker takes from its own shares, by their averages."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if worker.world_size == 1 or not norms:
        return
    for norm in norms:
        for statistic in (norm.running_mean, norm.running_var):
            assert statistic is not None
            dist.all_reduce(statistic)
            statistic /= worker.world_size


def _add_dense(parameters: list[nn.Parameter]) -> None:
    """Sends one message for all parameters; afterwards the gradients are views of it."""
    if not parameters:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    dist.all_reduce(flat)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def _add_sparse(parameters: list[nn.Parameter], worker: Worker) -> None:
    """Sends one message with the numbers of rows, then one for each table with the rows themselves."""
    if not parameters:
        return
    gradients = [_no_rows(p) if p.grad is None else coalesce(p.grad) for p in parameters]
    own = torch.tensor([gradient._nnz() for gradient in gradients], device=parameters[0].device)
    for parameter, gradient, lengths in zip(parameters, gradients, _gather(own, len(own), worker).T.tolist(), strict=True):
        # As bytes, the index of a row (eight bytes) can travel in front of its values.
        indices, values = gradient._indices()[0][:, None].view(torch.uint8), gradient._values().view(torch.uint8)
        everyone = _gather(torch.cat([indices, values], dim=1), max(lengths), worker)
        lines = torch.cat([lines[:length] for lines, length in zip(everyone, lengths, strict=True)])
        rows, sums = lines[:, :8].contiguous().view(torch.int64), lines[:, 8:].contiguous().view(parameter.dtype)
        parameter.grad = coalesce(torch.sparse_coo_tensor(rows.T, sums, parameter.shape, check_invariants=False))


def _no_rows(parameter: nn.Parameter) -> Tensor:
    """A sparse gradient without rows."""
    rows = torch.empty(1, 0, dtype=torch.int64, device=parameter.device)
    values = parameter.new_empty(0, parameter.shape[1])
    return torch.sparse_coo_tensor(rows, values, parameter.shape, is_coalesced=True, check_invariants=False)


def _gather(values: Tensor, longest: int, worker: Worker) -> Tensor:
    """The [rows, ...] of each worker, padded with zeros to `longest` rows: [world_size, longest, ...]."""
    padded = values.new_zeros(longest, *values.shape[1:])
    padded[: len(values)] = values
    everyone = values.new_empty(worker.world_size, *padded.shape)
    dist.all_gather_into_tensor(everyone.view(-1, *padded.shape[1:]), padded)
    return everyone
