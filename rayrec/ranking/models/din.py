"""`din`: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction" (KDD 2018).

The user's interest in a candidate is the sum of the clicked videos' vectors, each weighed by how much it says about the candidate:
v(c) = sum over clicks k of a(k, c) k (eq. 3), a = an MLP over the two, their difference and their product. The paper does not
normalise the weights, so that their sum says how strong the interest is. logit = MLP(request, candidate, v).

Shapes: B requests, N candidates, H history, E all fields of an item side by side.
"""

from typing import Literal

import torch

from rayrec.config import Count, Ranker, Section
from rayrec.ranking.batch import Batch
from rayrec.ranking.embedding import Inputs
from rayrec.ranking.fields import Tables
from rayrec.ranking.model import RankingModel
from rayrec.ranking.sequences import ActivationUnit, InterestMLP, masked_softmax


class DIN(RankingModel):
    class Options(Section):
        attention: list[Count] = [64, 16]  # the hidden layers of a
        activation: Literal["prelu", "sigmoid"] = "prelu"
        normalise: bool = False  # softmax over the clicks

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.normalise = options.normalise
        self.inputs = Inputs(settings, tables, settings.embedding_size, settings.topic_size)
        self.unit = ActivationUnit(self.inputs.item_size, options.attention, options.activation)
        self.mlp = InterestMLP(settings, self.inputs, self.inputs.item_size)

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.inputs(batch)
        weights_BNH = self.unit(x)
        there_BNH = x.there_BH[:, None]
        weights_BNH = masked_softmax(weights_BNH, there_BNH) if self.normalise else weights_BNH * there_BNH
        return self.mlp(x, weights_BNH @ x.clicked_BHE)
