"""`wide_deep`: Cheng et al., "Wide & Deep Learning for Recommender Systems" (2016).

Its inputs are those of Pu et al., "Multimodal Topic Learning for Video Recommendation".

logit = wide + deep. Deep: an MLP over the user's fields, the mean embedding of the clicked videos and the candidate's fields, where
topics are one more multi-valued field, of dimension `topic_size`. Wide: one weight for each value of each field, and the cross
product of the user's clicked topics with the candidate's: the mean over the candidate's topics t of
w_t * log((c_t + 1/2) / (c / K + 1/2)), where c_t of the user's c topic clicks are on t. That logarithm expresses how much more the
user clicks on t than on the average topic (smoothed; 0 for a user without clicks). A naive Bayes classifier would add it to the
logit unweighted, so the weights w_t start at 1. With `history_connection: none` there is no cross product. With `options.sequence`
the deep part also reads the clicks in their order (`ClickedSequence`).

Shapes: B requests, N candidates, H history, T topics of a video, K topics in all, R / E sizes of a request / an item.
"""

import torch
from torch import nn

from rayrec.config import Ranker
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.ranking.embedding import Inputs
from rayrec.ranking.layers import ClickedMean, RequestMLP, value_counts
from rayrec.ranking.model import RankingModel
from rayrec.ranking.sequences import ClickedSequence, SequenceOptions


class WideDeep(RankingModel):
    Options = SequenceOptions

    def __init__(self, settings: Ranker, options: SequenceOptions, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.inputs = Inputs(settings, tables, settings.embedding_size, settings.topic_size)
        self.clicked = ClickedMean(settings, self.inputs)
        self.sequence = ClickedSequence(settings, options, self.inputs)
        request_size = self.clicked.request_size + self.sequence.request_size
        candidate_size = self.inputs.item_size + self.sequence.candidate_size
        self.mlp = RequestMLP(request_size, candidate_size, settings.hidden, settings.dropout)
        self.topic_cross: nn.Embedding | None = None
        if "topics" in tables.items.sizes and settings.history_connection != "none":
            self.topic_cross = nn.Embedding(tables.items.sizes["topics"], 1, padding_idx=0)
            nn.init.ones_(self.topic_cross.weight)

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.inputs(batch)
        logits_BN = self.clicked(x, x.linear_BN + self.sequence(x, self.clicked.request(x), self.mlp))
        return logits_BN + self._cross(batch) if self.topic_cross is not None else logits_BN

    def _cross(self, batch: Batch) -> torch.Tensor:
        """The cross product of the clicked topics with the candidate's topics [B, N]."""
        assert self.topic_cross is not None
        lookup = self.inputs.items.table_of["topics"]
        clicked_BX = lookup.values_of("topics", batch.history).flatten(1)
        clicks_BK = value_counts(clicked_BX, self.topic_cross.num_embeddings)
        mean_B1 = clicks_BK.sum(1, keepdim=True) / (self.topic_cross.num_embeddings - 1)
        liking_BK = torch.log((clicks_BK + 0.5) / (mean_B1 + 0.5))
        topics_BNT = lookup.values_of("topics", batch.candidates)
        mask_BNT = (topics_BNT > 0).to(liking_BK.dtype)
        liking_BNT = liking_BK.gather(1, topics_BNT.flatten(1)).view_as(topics_BNT)
        weighted_BNT = self.topic_cross(topics_BNT).squeeze(-1) * liking_BNT * mask_BNT
        return weighted_BNT.sum(-1) / mask_BNT.sum(-1).clamp(min=1)
