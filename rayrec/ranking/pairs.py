"""One vector for the user and one for the video: what the models read that score pairs of the two.

He et al., "Neural Collaborative Filtering" (2017), section 3.1: the vectors come from ids, or from whatever else describes user and
item. With several fields, a vector is the sum of those of its fields, so that a new video is scored from its content.

Shapes: B requests, N candidates, D embedding.
"""

from dataclasses import replace

import torch
from torch import nn

from rayrec.config import Ranker, Section
from rayrec.data.batches import Batch
from rayrec.data.fields import FieldTable, Tables
from rayrec.ranking.embedding import INITIAL_DEVIATION, EmbeddingTable, Inputs

PAIR_DEVIATION = 0.01  # of the vectors at first, as in He et al., section 4.1


class PairOptions(Section):
    """The options that all models of pairs have."""

    content: bool = True  # whether the fields of users, videos and context count; if not, ids alone do, as in He et al.


class Pairs(nn.Module):
    """The vectors of users and candidates. The history makes no difference."""

    def __init__(self, settings: Ranker, content: bool, tables: Tables) -> None:
        super().__init__()
        known = tables if content else Tables(_ids(tables.users, "user_id"), _ids(tables.items, "video_id"), {})
        self.inputs = Inputs(settings, known, settings.embedding_size)
        for table in self.inputs.modules():
            if isinstance(table, EmbeddingTable):
                table.weight.data.mul_(PAIR_DEVIATION / INITIAL_DEVIATION)

    def append_items(self, table: FieldTable) -> None:
        self.inputs.append_items(table)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The vectors of the users [B, D] and of the candidates [B, N, D]."""
        x = self.inputs(batch)
        return x.fields(x.request_BR).sum(-2), x.fields(x.candidates_BNE).sum(-2)


def _ids(table: FieldTable, name: str) -> FieldTable:
    """The column `name` of a table alone."""
    ids = {name: table.categorical[name]}
    return replace(table, categorical=ids, multivalued={}, numeric={}, vectors={}, sizes={name: table.sizes[name]})
