"""`mlp`: He et al., "Neural Collaborative Filtering" (2017), eq. 10: an MLP over the vectors of user and video, side by side.

The sizes of the layers are `ranker.hidden`; the paper halves each: 64, 32, 16 above two vectors of 32.

Shapes: B requests, N candidates, D embedding.
"""

import torch

from rayrec.config import Ranker
from rayrec.data.batches import Batch
from rayrec.data.fields import FieldTable, Tables
from rayrec.ranking.layers import RequestMLP
from rayrec.ranking.model import RankingModel
from rayrec.ranking.pairs import PairOptions, Pairs


class MLP(RankingModel):
    Options = PairOptions

    def __init__(self, settings: Ranker, options: PairOptions, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.pairs = Pairs(settings, options.content, tables)
        self.network = RequestMLP(settings.embedding_size, settings.embedding_size, settings.hidden, settings.dropout)

    def append_items(self, table: FieldTable) -> None:
        self.pairs.append_items(table)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.network(*self.pairs(batch))
