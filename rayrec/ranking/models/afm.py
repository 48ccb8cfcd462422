"""`afm`: Xiao et al., "Attentional Factorization Machines: Learning the Weight of Feature Interactions via Attention Networks"
(IJCAI 2017).

logit = w_0 + the weights of all fields + p^T sum a_ij (v_i * v_j) (eq. 6), where the attention a weighs the pairs of fields
(eq. 4-5, `PairAttention`). The clicked videos enter as the mean of the vectors of each item field.
"""

import torch

from rayrec.config import Count, Ranker, Section
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.ranking.embedding import Inputs
from rayrec.ranking.layers import ClickedMean, Head, PairAttention
from rayrec.ranking.model import RankingModel


class AFM(RankingModel):
    class Options(Section):
        attention_size: Count = 16

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.inputs = Inputs(settings, tables, settings.embedding_size)
        self.clicked = ClickedMean(settings, self.inputs)
        self.attention = PairAttention(settings.embedding_size, options.attention_size, settings.dropout)
        self.output = Head(settings.embedding_size)  # p and w_0

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.inputs(batch)
        pooled_BND = self.attention(x.fields(self.clicked.request(x)), x.fields(x.candidates_BNE))
        return self.clicked(x, x.linear_BN + self.output(pooled_BND).squeeze(-1))
