"""`lr`: logistic regression over hashed features, trained by FTRL-proximal.

It is the industrial baseline of the short-video CTR paper (see docs/papers.md).

The hashing trick (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009, eq. 1): the weight of a value is
kept in the bucket that its hash names, with a sign from the same hash, and values may share a bucket. So the size of the model is
chosen and does not depend on the data. The values of a multi-valued field have a total share of 1; numbers and modality vectors
have their own weights. Clicked videos enter as the mean of theirs: their ids and topics are hashed once more, as other fields. With
`crosses`, each pair of a value of the request and a value of the candidate is a value too.

FTRL-proximal (McMahan et al., 2013, Algorithm 1) replaces `training.learning_rate` and `weight_decay`. A linear model has one layer
and adds up the modalities, so `history_connection` (other than none) and `fusion` make no difference.

Shapes: B requests, N candidates, H history, U distinct items, W values of a row, X numbers of a row.
"""

import hashlib
from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from rayrec.config import Count, Ranker, Section, Training
from rayrec.data.batches import Batch
from rayrec.data.fields import FieldTable, Tables
from rayrec.data.hashing import STEP, mix
from rayrec.ranking.gathering import Rows, gather, unique_rows
from rayrec.ranking.model import RankingModel
from rayrec.training.optimizers import Ftrl

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
INT64_MAX = 2**63 - 1


class LR(RankingModel):
    seed_C: torch.Tensor  # int64, of the context fields

    class Options(Section):
        buckets: Count = 2**20
        crosses: bool = False
        alpha: Positive = 0.1
        beta: Positive = 0.001  # 1 in the paper, where a gradient is of one impression; here it is the mean over a batch
        l1: NotNegative = 0.0
        l2: NotNegative = 0.0

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.options = options
        self.weights = HashedWeights(options.buckets)
        self.users = HashedTable(tables.users, "user_id", settings.id_dropout)
        self.items = HashedTable(tables.items, "video_id", settings.id_dropout)
        seeds = [field_seed(f"context {name}") for name in tables.context]
        self.register_buffer("seed_C", torch.tensor(seeds, dtype=torch.int64), persistent=False)
        self.bias = nn.Parameter(torch.zeros(()))

    def optimizer(self, settings: Training, parameters: Iterable[nn.Parameter] | None = None) -> torch.optim.Optimizer:
        return Ftrl(parameters or self.parameters(), self.options.alpha, self.options.beta, self.options.l1, self.options.l2)

    def append_items(self, table: FieldTable) -> None:
        self.items.append(table)

    def forward(self, batch: Batch) -> torch.Tensor:
        keys_BW, shares_BW, numbers_B = self.users(batch.user)
        context_BC = keys_of(self.seed_C, batch.context)
        keys_BW, shares_BW = torch.cat([keys_BW, context_BC], 1), torch.cat([shares_BW, torch.ones_like(context_BC)], 1)
        rows_U, index_BX = unique_rows(torch.cat([batch.candidates, batch.history], 1), len(self.items.keys))
        index_BN, index_BH = index_BX.split([batch.candidates.shape[1], batch.history.shape[1]], 1)
        keys_UW, shares_UW, numbers_U = self.items(rows_U)
        request_B = self.bias + numbers_B + self.weights(keys_BW, shares_BW)
        both_2UW = torch.stack([keys_UW, mix(keys_UW ^ STEP)]), torch.stack([shares_UW, shares_UW * self.items.of_history_W])
        shown_U, clicked_U = self.weights(*both_2UW)
        mask_BH = (batch.history > 0) & (self.settings.history_connection != "none")
        history_B = (gather(clicked_U, index_BH) * mask_BH).sum(1) / mask_BH.sum(1).clamp(min=1)
        logits_BN = (request_B + history_B)[:, None] + gather(numbers_U + shown_U, index_BN)
        if not self.options.crosses:
            return logits_BN
        pairs_BNWV = mix(keys_BW[:, None, :, None] + gather(keys_UW, index_BN)[:, :, None])
        shares_BNWV = shares_BW[:, None, :, None] * gather(shares_UW, index_BN)[:, :, None]
        return logits_BN + self.weights(pairs_BNWV.flatten(2), shares_BNWV.flatten(2))


class HashedTable(nn.Module):
    """The rows of a field table: the keys of their values, the share of each value in its field, and their numbers.

    A key is a 64-bit hash of field and value. While training, the id is unknown in a share `id_dropout` of the rows.
    """

    of_history_W: torch.Tensor  # float32, 1 for the values by which clicked videos enter

    def __init__(self, table: FieldTable, ids: str, id_dropout: float) -> None:
        super().__init__()
        self.ids, self.id_dropout = ids, id_dropout
        columns = {**table.categorical, **table.multivalued}
        names = sorted(columns, key=lambda name: (name != ids, name))  # the id's column comes first
        self.widths = {name: columns[name].shape[1] if name in table.multivalued else 1 for name in names}
        of_history = [float(name in (ids, "topics")) for name in names for _ in range(self.widths[name])]
        self.register_buffer("of_history_W", torch.tensor(of_history), persistent=False)
        keys, shares, numbers = self._hashed(table)
        self.keys = Rows(keys)  # int64 [rows, W], the id's first
        self.shares = Rows(shares)  # float32 [rows, W], 0 at padding
        self.numbers = Rows(numbers)  # float32 [rows, X]
        self.number_weights = nn.Parameter(torch.zeros(numbers.shape[1]))

    def append(self, table: FieldTable) -> None:
        """More rows, without the row for "unknown" that leads the table. Values beyond the widest row so far are left out."""
        for rows, more in zip((self.keys, self.shares, self.numbers), self._hashed(table), strict=True):
            rows.append(more[1:])

    def _hashed(self, table: FieldTable) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The keys, shares and numbers of the rows of a table."""
        keys, shares = [], []
        for name, width in self.widths.items():
            multivalued = name in table.multivalued
            values = table.multivalued[name][:, :width] if multivalued else table.categorical[name][:, None]
            values = functional.pad(values, (0, width - values.shape[1]))
            mask = (values > 0) if multivalued else torch.ones_like(values)
            keys.append(keys_of(field_seed(f"{self.ids} {name}"), values))
            shares.append(mask / mask.sum(1, keepdim=True).clamp(min=1))
        numbers = [table.numeric[name][:, None] for name in sorted(table.numeric)]
        numbers += [table.vectors[name] for name in sorted(table.vectors)]
        return torch.cat(keys, 1), torch.cat(shares, 1), torch.cat(numbers or [torch.zeros(len(table.ids), 0)], 1)

    def forward(self, rows_U: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The keys and shares of rows, both [U, W], and the part of the logit that comes from their numbers [U]."""
        keys_UW, shares_UW = self.keys[rows_U], self.shares[rows_U]
        if self.training and self.id_dropout:
            unknown_U = torch.rand(len(rows_U), device=rows_U.device) < self.id_dropout
            keys_UW[:, 0] = torch.where(unknown_U, self.keys.first[0, 0], keys_UW[:, 0])
        return keys_UW, shares_UW, self.numbers[rows_U] @ self.number_weights


class HashedWeights(nn.Module):
    """One weight for each bucket."""

    sparse = True

    def __init__(self, buckets: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(buckets, 1))

    def forward(self, keys: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """The sum of the weights of keys [..., W], each multiplied by its share and its sign: [...]."""
        buckets = ((keys & INT64_MAX) % len(self.weight)).view(-1, keys.shape[-1])
        signed = torch.where(keys < 0, -shares, shares).view_as(buckets)
        sums = functional.embedding_bag(buckets, self.weight, mode="sum", per_sample_weights=signed, sparse=True)
        return sums.view(keys.shape[:-1])


def keys_of(seeds: torch.Tensor | int, values: torch.Tensor) -> torch.Tensor:
    """The keys of values of a field: value v gets the v-th random number that splitmix64 gives from the field's seed."""
    return mix(seeds + (values + 1) * STEP)


def field_seed(field: str) -> int:
    """The seed of a field, a signed 64-bit number."""
    return int.from_bytes(hashlib.blake2b(field.encode(), digest_size=8).digest(), "little", signed=True)
