"""`sdin_fm`: `sdin` and, in parallel, the low-order crosses of a factorization machine.

It is the model of the short-video CTR paper (see docs/papers.md). logit = sdin + FM over the field vectors of request and
candidate: the sum of the weights of all fields and of the dot products of all pairs of fields (Rendle, "Factorization Machines",
2010, eq. 1). All fields must therefore be of one size.
"""

import torch

from rayrec.config import Ranker
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.ranking.layers import pairwise_dot_products
from rayrec.ranking.models.sdin import SDIN


class SDINFM(SDIN):
    def __init__(self, settings: Ranker, options: SDIN.Options, tables: Tables) -> None:
        super().__init__(settings.model_copy(update={"topic_size": settings.embedding_size}), options, tables)

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.inputs(batch)
        return self.logits_of(x, batch) + x.linear_BN + pairwise_dot_products(x.fields(x.request_BR), x.fields(x.candidates_BNE))
