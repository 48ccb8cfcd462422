"""The batch contract, and how examples become batches.

A ranker scores N candidates for each of B requests. Training on single impressions is N=1, or N=1+K where K negatives are drawn for
each click; serving is N=600 with B=1..k; a model has one `forward` for all. Users and items are row indices of the model's
tables, in which row 0 stands for "unknown user" and for "no item" (padding).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rayrec.config import Training
from rayrec.data.examples import Examples
from rayrec.data.negatives import NegativeSampler
from rayrec.data.shuffling import Columns, ExampleSource, by_batch, shuffled_blocks
from rayrec.data.windows import HistoryGather


@dataclass(frozen=True)
class Batch:
    """B requests with N candidates each and H clicks before each request, oldest first.

    The model's `HistoryWindow` says which clicks they are. A history is padded with 0 on the left. In training, clicks anywhere in
    it may be hidden (0) while their times stay.
    """

    user: Tensor  # int64 [B]
    at: Tensor  # int64 [B], UTC ms
    history: Tensor  # int64 [B, H]
    history_at: Tensor  # int64 [B, H], UTC ms, 0 where padded
    context: Tensor  # int64 [B, C], the value of each context field
    candidates: Tensor  # int64 [B, N]; in training, the impression's own video and then negatives, 0 where none was drawn
    labels: Tensor | None = None  # float32 [B, N], 1 = clicked
    goals: Tensor | None = None  # float32 [B, N, G], the labels of the ranker's goals if it has any; NaN: no label

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
            None if self.goals is None else self.goals.to(device),
        )


def batches(examples: Examples, gather: HistoryGather, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """The examples in their order, with one candidate each (N=1)."""
    rows = examples.on(device)
    for start in range(0, len(examples), batch_size):
        part = rows.take(slice(start, start + batch_size))
        yield _batch(part, gather, part.end)


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
    skip: int = 0,
    sampler: NegativeSampler | None = None,
) -> Iterator[tuple[Batch, int]]:
    """The rows of each global batch of an epoch that `source` has, and the size of the global batch.

    A worker's source has its share of the examples, which may have no row in a batch. The order follows from (seed, epoch, number
    of examples) alone. The first `skip` global batches are left out. The clicks to hide are drawn for the global batch, so that any
    number of workers sees the same histories. A `sampler` adds negatives to the impressions that were clicked.
    """
    size, first = settings.batch_size, skip * settings.batch_size
    blocks, draw = shuffled_blocks(source, device, seed, epoch, first), torch.Generator(device)
    negatives_seed = int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
    for step, rows in enumerate(by_batch(blocks, size, first, len(source)), start=skip):
        count = min(size, len(source) - step * size)
        end_B = rows.columns.end
        if settings.cut_histories or settings.hidden_clicks:
            draw.manual_seed(int(np.random.SeedSequence((seed, epoch, step)).generate_state(1)[0]))
            index_B = torch.from_numpy(rows.position - step * size).to(device)  # in the global batch
        if settings.cut_histories:
            chosen_B, back_B = torch.rand(2, count, device=device, generator=draw, dtype=torch.float64)[:, index_B]
            end_B = _shortened(rows.columns, gather, chosen_B < settings.cut_histories, back_B)
        batch = _batch(rows.columns, gather, end_B)
        if settings.hidden_clicks:
            hidden = torch.rand(count, gather.window.width, device=device, generator=draw)[index_B] < settings.hidden_clicks
            batch.history.masked_fill_(hidden, 0)
        yield (batch if sampler is None else _with_negatives(batch, sampler, negatives_seed)), count


def _with_negatives(batch: Batch, sampler: NegativeSampler, seed: int) -> Batch:
    """The batch with K more candidates, which were not clicked. Those of an impression that was not clicked itself are 0."""
    assert batch.labels is not None
    drawn_BK = sampler.draw(batch.user, batch.candidates[:, 0], batch.at, batch.labels[:, 0] > 0, seed)
    labels_BN = torch.cat([batch.labels, torch.zeros_like(drawn_BK, dtype=batch.labels.dtype)], 1)
    goals = None
    if batch.goals is not None:  # nobody did anything with what was not shown
        goals = torch.cat([batch.goals, batch.goals.new_zeros(*drawn_BK.shape, batch.goals.shape[2])], 1)
    return replace(batch, candidates=torch.cat([batch.candidates, drawn_BK], 1), labels=labels_BN, goals=goals)


def _shortened(rows: Columns, gather: HistoryGather, chosen_B: Tensor, back_B: Tensor) -> Tensor:
    """The ends of the histories; those chosen are moved back by a share `back_B` of their clicks, up to all: int64 [rows]."""
    clicks_B = rows.end - gather.offsets[rows.user.long()]
    return rows.end - torch.where(chosen_B, (back_B * (clicks_B + 1)).long(), 0)


def _batch(rows: Columns, gather: HistoryGather, end_B: Tensor) -> Batch:
    user_B = rows.user.long()
    history, history_at = gather(user_B, end_B)
    item_B1, clicked_B1 = rows.item.long()[:, None], rows.clicked.float()[:, None]
    goals_B1G = None if rows.goals is None else rows.goals[:, None]
    return Batch(user_B, rows.at, history, history_at, rows.context.long(), item_B1, clicked_B1, goals_B1G)
