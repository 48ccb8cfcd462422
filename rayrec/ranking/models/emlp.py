"""`emlp`: embedding and MLP, the plain deep baseline of Pu et al., "Multimodal Topic Learning for Video Recommendation".

logit = an MLP over the fields of the request, the mean of the vectors of each item field over the clicked videos, and the fields of
the candidate: Covington et al., "Deep Neural Networks for YouTube Recommendations" (2016), section 4. Topics have dimension
`topic_size`.
"""

import torch

from rayrec.config import Ranker, Section
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.ranking.embedding import Inputs
from rayrec.ranking.layers import ClickedMean, RequestMLP
from rayrec.ranking.model import RankingModel


class EMLP(RankingModel):
    def __init__(self, settings: Ranker, options: Section, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.inputs = Inputs(settings, tables, settings.embedding_size, settings.topic_size)
        self.clicked = ClickedMean(settings, self.inputs)
        self.mlp = RequestMLP(self.clicked.request_size, self.inputs.item_size, settings.hidden, settings.dropout)

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.inputs(batch)
        return self.clicked(x, self.mlp.of_items(self.clicked.request(x), x))
