"""`wide_deep`: Cheng et al., "Wide & Deep Learning for Recommender Systems" (2016), with the inputs of SOURCES C.5.

logit = wide + deep. Deep: an MLP over the user's fields, the mean embedding of the clicked videos and the candidate's fields, where
topics are one more multi-valued field of dimension 8. Wide: one weight for each value of each field, and the cross product of the
user's clicked topics with the candidate's: the mean over the candidate's topics t of w_t * log((c_t + 1/2) / (c / K + 1/2)), where
c_t of the user's c topic clicks are on t. That logarithm is how much more than others the user clicks on t (smoothed; 0 for a user
without clicks), which a naive Bayes classifier would add to the logit as it is: so the weights w_t begin at 1.

Shapes: B requests, N candidates, H history, T topics of a video, K topics in all, R / C sizes of a request / a candidate.
"""

import torch
from torch import nn

from rayrec.config import Ranker
from rayrec.ranking.batch import Batch
from rayrec.ranking.fields import FieldTable
from rayrec.ranking.layers import FieldEmbedding, RequestMLP, value_counts

TOPICS = "multivalued.topics"


class WideDeep(nn.Module):
    def __init__(self, settings: Ranker, users: FieldTable, items: FieldTable, sizes: dict[str, int]) -> None:
        super().__init__()
        fields = [key.split(".", 1)[1] for table in (users, items) for key in table.tensors()]
        dims = {name: settings.topic_size if name == "topics" else settings.embedding_size for name in fields}
        ones = dict.fromkeys(fields, 1)
        self.users = FieldEmbedding(users, sizes, dims, "user_id", settings.id_dropout)
        self.items = FieldEmbedding(items, sizes, dims, "video_id", settings.id_dropout)
        self.mlp = RequestMLP(self.users.size + self.items.size, self.items.size, settings.hidden, settings.dropout)
        self.user_weights = FieldEmbedding(users, sizes, ones, "user_id", settings.id_dropout)
        self.item_weights = FieldEmbedding(items, sizes, ones, "video_id", settings.id_dropout)
        self.topic_cross = nn.Embedding(sizes["topics"], 1, padding_idx=0) if TOPICS in items.tensors() else None
        if self.topic_cross is not None:
            nn.init.ones_(self.topic_cross.weight)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Click logits [B, N]."""
        clicked_BC = self.items.mean(batch.history)
        request_BR = torch.cat([self.users(batch.user), clicked_BC], dim=-1)
        logits_BN = self.mlp(request_BR, self.items(batch.candidates))
        logits_BN = logits_BN + self.user_weights(batch.user).sum(-1, keepdim=True) + self.item_weights(batch.candidates).sum(-1)
        return logits_BN + self._cross(batch) if self.topic_cross is not None else logits_BN

    def _cross(self, batch: Batch) -> torch.Tensor:
        """The clicked topics times the candidate's topics [B, N]."""
        assert self.topic_cross is not None
        clicked_BX = self.items.values(TOPICS, batch.history).flatten(1)
        clicks_BK = value_counts(clicked_BX, self.topic_cross.num_embeddings)
        mean_B1 = clicks_BK.sum(1, keepdim=True) / (self.topic_cross.num_embeddings - 1)
        liking_BK = torch.log((clicks_BK + 0.5) / (mean_B1 + 0.5))
        topics_BNT = self.items.values(TOPICS, batch.candidates)
        there_BNT = (topics_BNT > 0).to(liking_BK.dtype)
        liking_BNT = liking_BK.gather(1, topics_BNT.flatten(1)).view_as(topics_BNT)
        weighted_BNT = self.topic_cross(topics_BNT).squeeze(-1) * liking_BNT * there_BNT
        return weighted_BNT.sum(-1) / there_BNT.sum(-1).clamp(min=1)
