"""`fm`: Rendle, "Factorization Machines" (2010).

logit = w_0 + the weights of all fields + the dot products of all pairs of their vectors (eq. 1, for degree 2). The clicked videos
enter as in the paper (Section IV: the "other movies rated", each with 1 / their number), as the mean of the vectors of each item
field.
"""

import torch
from torch import nn

from rayrec.config import Ranker, Section
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.ranking.embedding import Inputs
from rayrec.ranking.layers import ClickedMean, pairwise_dot_products
from rayrec.ranking.model import RankingModel


class FM(RankingModel):
    def __init__(self, settings: Ranker, options: Section, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.inputs = Inputs(settings, tables, settings.embedding_size)
        self.clicked = ClickedMean(settings, self.inputs)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.inputs(batch)
        pairs_BN = pairwise_dot_products(x.fields(self.clicked.request(x)), x.fields(x.candidates_BNE))
        return self.clicked(x, self.bias + x.linear_BN + pairs_BN)
