"""`TwoTower`: one network for the user, one for the video, and the dot product of their outputs as the logit.

Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (RecSys 2019), section 3, without the
correction of sampled negatives: here impressions that were not clicked are the negatives.

Shapes: B requests, N candidates, R / E sizes of a request / an item, S the size of both vectors.
"""

import torch
from torch import nn

from rayrec.config import Count, Ranker, Section
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.ranking.embedding import Inputs
from rayrec.ranking.layers import ClickedMean
from rayrec.ranking.model import RankingModel
from rayrec.ranking.sequences import apply_to_candidates


class TwoTower(RankingModel):
    class Options(Section):
        """`ranker.options` of the config. `ranker` itself already has the embedding size, the hidden layers and the dropout."""

        size: Count = 32  # of the vectors that are compared

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.inputs = Inputs(settings, tables, settings.embedding_size, settings.topic_size)  # embeds all fields
        self.clicked = ClickedMean(settings, self.inputs)  # adds the mean of the clicked videos to the request
        self.user = tower(self.clicked.request_size, settings.hidden, options.size, settings.dropout)
        self.item = tower(self.inputs.item_size, settings.hidden, options.size, settings.dropout)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Click logits [B, N]."""
        x = self.inputs(batch)
        user_BS = self.user(self.clicked.request(x))
        items_BNS = apply_to_candidates(self.item, x)  # computed once for each distinct video of the batch
        return self.clicked(x, self.bias + (items_BNS @ user_BS[..., None]).squeeze(-1))


def tower(size: int, hidden: list[int], output: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout)]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, output))
