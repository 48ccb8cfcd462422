"""`din`: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction" (KDD 2018).

The user's interest in a candidate c is the sum of the clicked videos' vectors k, each weighed by its relevance for the candidate:
v(c) = sum over clicks k of a(k, c) k (eq. 3), where a is an MLP over both vectors, their difference and their product. The paper
does not normalise the weights, so that their sum expresses the strength of the interest. logit = MLP(request, candidate, v).

The concatenated fields of a video are projected to X numbers, once for each distinct video of a batch, so that each pair takes
little work.

Shapes: B requests, N candidates, H history, X a video's vector.
"""

from typing import Literal

import torch
from torch import nn

from rayrec.config import Count, Ranker, Section
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.ranking.click_pairs import ClickPairs, pooled_clicks
from rayrec.ranking.embedding import Embedded, Inputs, masked_softmax
from rayrec.ranking.gathering import gather
from rayrec.ranking.layers import Dice, relu
from rayrec.ranking.model import RankingModel
from rayrec.ranking.sequences import ActivationUnit, InterestMLP, apply_to_candidates, apply_to_clicks


class DIN(RankingModel):
    class Options(Section):
        attention: list[Count] = [64, 16]  # the hidden layers of a
        # Of a. The paper's `dice` is also that of the MLP; with it, another number of workers makes another model.
        activation: Literal["prelu", "dice", "sigmoid"] = "prelu"
        normalise: bool = False  # softmax over the clicks
        size: Count | None = 16  # X, to which a video is projected first; null keeps all its fields, as the paper does

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.normalise = options.normalise
        self.inputs = Inputs(settings, tables, settings.embedding_size, settings.topic_size)
        size = options.size or self.inputs.item_size
        self.project = nn.Linear(self.inputs.item_size, size, bias=False) if options.size else nn.Identity()
        self.unit = ActivationUnit(size, options.attention, options.activation)
        self.mlp = InterestMLP(settings, self.inputs, size, Dice if options.activation == "dice" else relu)

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.inputs(batch)
        if x.content is None and self.unit.trains_by_pair(x.mask_BH.device):
            return self.mlp(x, self._trained_by_pair(x))
        c_BNX, k_BHX = apply_to_candidates(self.project, x), apply_to_clicks(self.project, x)
        scores_BNH, mask_BNH = self.unit(c_BNX, k_BHX, x.mask_BH), x.mask_BH[:, None]
        weights_BNH = masked_softmax(scores_BNH, mask_BNH) if self.normalise else scores_BNH * mask_BNH
        return self.mlp(x, weights_BNH @ k_BHX)

    def _trained_by_pair(self, x: Embedded) -> torch.Tensor:
        """The interest [B, N, X], computed from the pairs alone."""
        k_UX = x.of_items(self.project)
        c_BNX = gather(k_UX, x.index_BN)
        pairs = ClickPairs.of(x.index_BH, x.mask_BH, c_BNX.shape[1], len(k_UX))
        weights_Q = self.unit.of_pairs(pairs, c_BNX, k_UX)
        if self.normalise:
            weights_BNH = masked_softmax(pairs.spread(weights_Q), x.mask_BH[:, None])
            weights_Q = weights_BNH.flatten().index_select(0, pairs.place_Q)
        return pooled_clicks(pairs, weights_Q, k_UX).view_as(c_BNX)
