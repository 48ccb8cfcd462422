"""`sdin_fm`: `sdin` with the crosses of low order beside it (SOURCES A).

logit = sdin + FM over the field vectors of request and candidate: the weights of all fields and the dot products of all pairs of
them (Rendle, "Factorization Machines", 2010, eq. 1). So all fields are of one size.
"""

import torch

from rayrec.config import Ranker
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.ranking.layers import all_pairs
from rayrec.ranking.models.sdin import SDIN


class SDINFM(SDIN):
    def __init__(self, settings: Ranker, options: SDIN.Options, tables: Tables) -> None:
        super().__init__(settings.model_copy(update={"topic_size": settings.embedding_size}), options, tables)

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.inputs(batch)
        return self.logits(x, batch) + x.linear_BN + all_pairs(x.fields(x.request_BR), x.fields(x.candidates_BNE))
