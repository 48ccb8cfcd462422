"""`neumf`: neural matrix factorisation, He et al., "Neural Collaborative Filtering" (2017), eq. 12: `gmf` and `mlp`, side by side.

Each has vectors of its own. The last layer over both is the sum of a last layer over each, so the logit is the sum of theirs. With
`pretrain_epochs`, both are first trained alone, and the whole starts from half the sum of their logits (section 3.4.1, alpha = .5).
The paper then goes on with plain SGD; here Adam goes on with new moments.

Shapes: B requests, N candidates.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from rayrec.config import Ranker
from rayrec.data.batches import Batch
from rayrec.data.fields import FieldTable, Tables
from rayrec.ranking.model import RankingModel
from rayrec.ranking.models.gmf import GMF
from rayrec.ranking.models.mlp import MLP
from rayrec.ranking.pairs import PairOptions


class NeuMF(RankingModel):
    class Options(PairOptions):
        pretrain_epochs: Annotated[int, Field(ge=0)] = 0  # of GMF, and of the MLP, before the epochs of the whole

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.pretrain_epochs = options.pretrain_epochs
        # Popularity and the kernels of users count once, for the whole.
        part, known = settings.model_copy(update={"user_kernels": False}), replace(tables, popularity=None)
        self.gmf = GMF(part, options, known)
        self.mlp = MLP(part, options, known)

    def append_items(self, table: FieldTable) -> None:
        self.gmf.append_items(table)
        self.mlp.append_items(table)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.gmf(batch) + self.mlp(batch)

    def pretrain(self, train: Callable[[RankingModel, int], object]) -> None:
        if not self.pretrain_epochs:
            return
        train(self.gmf, self.pretrain_epochs)
        train(self.mlp, self.pretrain_epochs)
        for last in (self.gmf.head, self.mlp.network.rest[-1]):
            assert isinstance(last, nn.Linear)
            last.weight.data /= 2
            last.bias.data /= 2
