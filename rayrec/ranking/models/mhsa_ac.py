"""`mhsa_ac`: multi-head self-attention and attentive crosses of the fields.

Hasama & Li, "Attention-based Multimodal Feature Representation Model for Micro-video Recommendation".

logit = W_S^T S + W_P^T P + the weights of all fields + DNN(concat(S, P)) + b. The shallow variant (`deep: false`) drops the DNN,
and `crosses: false` drops P.
S: the fields after self-attention with residual, concatenated: Song et al., "AutoInt" (2019), eq. 5-8.
P: the elementwise products of all pairs of fields, pooled by attention: Xiao et al., "Attentional Factorization Machines" (2017),
eq. 4-5. The clicked videos enter as the mean of the vectors of each item field.

In self-attention the fields of the request also see those of the candidate, so they are computed for each candidate: four matrices
of B N F heads attention_size numbers in each layer.

Shapes: B requests, N candidates, F fields of request and candidate, D embedding, A attention_size, S heads * A.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from rayrec.config import Count, Ranker, Section
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.ranking.embedding import Inputs
from rayrec.ranking.layers import ClickedMean, Head, PairAttention, mlp
from rayrec.ranking.model import RankingModel


class MHSAAC(RankingModel):
    class Options(Section):
        heads: Count = 2
        layers: Count = 1
        attention_size: Count = 16  # of a head, and of the hidden layer that scores the pairs
        deep: bool = True
        crosses: bool = True

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        dim, width = settings.embedding_size, options.heads * options.attention_size
        self.inputs = Inputs(settings, tables, dim)
        self.clicked = ClickedMean(settings, self.inputs)
        sizes = [dim] + [width] * (options.layers - 1)
        self.layers = nn.Sequential(*[SelfAttention(size, options.heads, options.attention_size) for size in sizes])
        self.pairs = PairAttention(dim, options.attention_size, settings.dropout) if options.crosses else None
        self.attended_size = (self.clicked.request_size + self.inputs.item_size) // dim * width
        size = self.attended_size + (dim if options.crosses else 0)
        self.output = Head(size)
        self.mlp = mlp([size, *settings.hidden], settings.dropout) if options.deep else None

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.inputs(batch)
        request_BFD, candidates_BNFD = x.fields(self.clicked.request(x)), x.fields(x.candidates_BNE)
        candidates = candidates_BNFD.shape[1]
        fields_BNFD = torch.cat([request_BFD[:, None].expand(-1, candidates, -1, -1), candidates_BNFD], 2)
        found_BNX = self.layers(fields_BNFD.flatten(0, 1)).view(-1, candidates, self.attended_size)
        if self.pairs is not None:
            found_BNX = torch.cat([found_BNX, self.pairs(request_BFD, candidates_BNFD)], -1)
        logits_BN1 = self.output(found_BNX)
        if self.mlp is not None:
            logits_BN1 = logits_BN1 + self.mlp(found_BNX)
        return self.clicked(x, x.linear_BN + logits_BN1.squeeze(-1))


class SelfAttention(nn.Module):
    """The interacting layer of AutoInt: ReLU(concatenated heads + W_res x), with attention without scale or bias."""

    def __init__(self, size: int, heads: int, attention_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(size, 4 * heads * attention_size, bias=False)  # queries, keys, values, residual

    def forward(self, fields_BFD: torch.Tensor) -> torch.Tensor:
        """The attended fields [B, F, S]."""
        *heads, residual_BFS = self.linear(fields_BFD).chunk(4, -1)
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in heads)
        attended_BFS = scaled_dot_product_attention(queries, keys, values, scale=1.0).transpose(1, 2).flatten(2)
        return torch.relu(attended_BFS + residual_BFS)
