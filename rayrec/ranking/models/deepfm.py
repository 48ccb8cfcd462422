"""`deepfm`: Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction" (2017).

logit = FM + deep, both over the same field vectors. FM (eq. 2) is the sum of the weights of all fields and of the dot products of
all pairs of fields. Deep (eq. 3-4) is an MLP over the concatenated fields. The clicked videos enter as the mean of the vectors of
each item field. With `options.sequence` the deep part also reads them in their order (`ClickedSequence`).

Shapes: B requests, N candidates, R / E sizes of a request / an item.
"""

import torch

from rayrec.config import Ranker
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.ranking.embedding import Inputs
from rayrec.ranking.layers import ClickedMean, RequestMLP, pairwise_dot_products
from rayrec.ranking.model import RankingModel
from rayrec.ranking.sequences import ClickedSequence, SequenceOptions


class DeepFM(RankingModel):
    Options = SequenceOptions

    def __init__(self, settings: Ranker, options: SequenceOptions, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.inputs = Inputs(settings, tables, settings.embedding_size)
        self.clicked = ClickedMean(settings, self.inputs)
        self.sequence = ClickedSequence(settings, options, self.inputs)
        request_size = self.clicked.request_size + self.sequence.request_size
        candidate_size = self.inputs.item_size + self.sequence.candidate_size
        self.mlp = RequestMLP(request_size, candidate_size, settings.hidden, settings.dropout)

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.inputs(batch)
        request_BR = self.clicked.request(x)
        pairs_BN = pairwise_dot_products(x.fields(request_BR), x.fields(x.candidates_BNE))
        return self.clicked(x, x.linear_BN + pairs_BN + self.sequence(x, request_BR, self.mlp))
