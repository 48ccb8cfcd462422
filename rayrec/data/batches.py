"""The batch contract, and how examples become batches.

A ranker scores N candidates for each of B requests. Training on single impressions is N=1, serving is N=600 with B=1..k; a model
has one `forward` for both. Users and items are row indices of the model's own tables, in which row 0 stands for "unknown user" and
for "no item" (padding).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rayrec.config import Training
from rayrec.data.blocks import Columns, ExampleSource, rebatch, shuffled_blocks
from rayrec.data.examples import Examples
from rayrec.data.history import HistoryGather
from rayrec.training.exchange import SINGLE, Worker


@dataclass(frozen=True)
class Batch:
    """B requests with N candidates each and the H latest clicks before each request, oldest first.

    A history is padded with 0 on the left. In training, clicks anywhere in it may be hidden (0) while their times stay.
    """

    user: Tensor  # int64 [B]
    at: Tensor  # int64 [B], UTC ms
    history: Tensor  # int64 [B, H]
    history_at: Tensor  # int64 [B, H], UTC ms, 0 where padded
    context: Tensor  # int64 [B, C], the value of each context field
    candidates: Tensor  # int64 [B, N]
    labels: Tensor | None = None  # float32 [B, N], 1 = clicked

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(
            self.user.to(device),
            self.at.to(device),
            self.history.to(device),
            self.history_at.to(device),
            self.context.to(device),
            self.candidates.to(device),
            None if self.labels is None else self.labels.to(device),
        )


def batches(
    examples: Examples, gather: HistoryGather, batch_size: int, device: torch.device, worker: Worker = SINGLE
) -> Iterator[Batch]:
    """A worker's share of the examples (rows rank, rank + world_size, ...) in time order, with one candidate each (N=1)."""
    share = examples.on(device).take(slice(worker.rank, None, worker.world_size))
    for rows in rebatch([share], batch_size):
        yield _batch(rows, gather, rows.end)


def steps_of(source: ExampleSource, settings: Training) -> int:
    """The number of global batches of an epoch."""
    return -(-len(source) // settings.batch_size)


def training_batches(
    source: ExampleSource,
    gather: HistoryGather,
    settings: Training,
    device: torch.device,
    seed: int,
    epoch: int,
    worker: Worker = SINGLE,
    skip: int = 0,
) -> Iterator[tuple[Batch, int]]:
    """A worker's share of each global batch of an epoch, and the size of the global batch.

    A worker's share of the last batch may be empty. The order follows from (seed, epoch, number of examples) alone. The first
    `skip` global batches are left out. The clicks to hide are drawn for the global batch, so that any number of workers sees the
    same histories.
    """
    blocks, draw = shuffled_blocks(source, device, seed, epoch, skip * settings.batch_size), torch.Generator(device)
    share = slice(worker.rank, None, worker.world_size)
    for step, rows in enumerate(rebatch(blocks, settings.batch_size), start=skip):
        if settings.cut_histories or settings.hidden_clicks:
            draw.manual_seed(int(np.random.SeedSequence((seed, epoch, step)).generate_state(1)[0]))
        end = _shortened(rows, gather, settings.cut_histories, draw) if settings.cut_histories else rows.end
        batch = _batch(rows.take(share), gather, end[share])
        if settings.hidden_clicks:
            hidden = torch.rand(len(rows.user), gather.length, device=device, generator=draw)[share] < settings.hidden_clicks
            batch.history.masked_fill_(hidden, 0)
        yield batch, len(rows.user)


def _shortened(rows: Columns, gather: HistoryGather, share: float, draw: torch.Generator) -> Tensor:
    """The ends of the histories, a `share` of which is moved back by a random number of clicks, up to all: int64 [rows]."""
    chosen, back = torch.rand(2, len(rows.user), device=rows.end.device, generator=draw, dtype=torch.float64)
    clicks = rows.end - gather.offsets[rows.user.long()]
    return rows.end - torch.where(chosen < share, (back * (clicks + 1)).long(), 0)


def _batch(rows: Columns, gather: HistoryGather, end_B: Tensor) -> Batch:
    user_B = rows.user.long()
    history, history_at = gather(user_B, end_B)
    return Batch(
        user_B, rows.at, history, history_at, rows.context.long(), rows.item.long()[:, None], rows.clicked.float()[:, None]
    )
