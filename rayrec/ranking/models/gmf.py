"""`gmf`: generalised matrix factorisation, He et al., "Neural Collaborative Filtering" (2017), eq. 9.

logit = h^T (p * q) + b, with the vectors p of the user and q of the video. The bias b, which the paper lacks, takes in how rare a
click is.

Shapes: B requests, N candidates, D embedding.
"""

import torch

from rayrec.config import Ranker
from rayrec.data.batches import Batch
from rayrec.data.fields import FieldTable, Tables
from rayrec.ranking.layers import Head
from rayrec.ranking.model import RankingModel
from rayrec.ranking.pairs import PairOptions, Pairs


class GMF(RankingModel):
    Options = PairOptions

    def __init__(self, settings: Ranker, options: PairOptions, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.pairs = Pairs(settings, options.content, tables)
        self.head = Head(settings.embedding_size)
        torch.nn.init.ones_(self.head.weight)  # at first a dot product, which tells the two vectors where to go

    def append_items(self, table: FieldTable) -> None:
        self.pairs.append_items(table)

    def forward(self, batch: Batch) -> torch.Tensor:
        user_BD, candidates_BND = self.pairs(batch)
        return self.head(user_BD[:, None] * candidates_BND).squeeze(-1)
