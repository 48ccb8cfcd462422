"""`sdin`: Feng et al., "Deep Session Interest Network for Click-Through Rate Prediction" (DSIN, IJCAI 2019).

It follows the variant of the short-video CTR paper (see docs/papers.md).

The history is split into sessions. Session interest extractor: multi-head self-attention over the clicks of a session, to which a
bias of the session, the position and the unit is added (eq. 2), then a feed-forward layer, both with residuals; the mean of the
outputs is the session's interest I. Session interest interacting: a bidirectional LSTM over the sessions gives H, an interest in
the context of its neighbours. Session interest activating: the candidate weighs both, by softmax(I^T W c) and softmax(H^T W' c).
logit = MLP(request, candidate, weighted sum of I, weighted sum of H).

The sessions are cut from the whole history: `ranker.history_length` has no part in it.
Sessions and clicks are counted from the newest. All steps but the last depend on the request alone, and empty sessions are skipped.
Shapes: B requests, N candidates, S sessions, L clicks of a session, R sessions of the batch that have clicks, X an interest.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from rayrec.config import Count, Ranker, Section
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.data.windows import LatestSessions
from rayrec.ranking.embedding import Embedded, Inputs
from rayrec.ranking.layers import Linear
from rayrec.ranking.model import RankingModel
from rayrec.ranking.sequences import BilinearAttention, InterestMLP, apply_to_clicks, run_rnn, split_sessions


class SDIN(RankingModel):
    class Options(Section):
        sessions: Count = 10
        session_length: Count = 5
        gap_minutes: Annotated[float, Field(gt=0)] = 30  # between two clicks of different sessions
        size: Count = 32  # of I, and of H in each direction
        heads: Count = 2
        rnn: Literal["lstm", "gru"] = "lstm"
        pooling: Literal["attention", "mean"] = "attention"  # of the sessions; mean is the paper's ablation SDIN-I
        intra: bool = True  # I reaches the MLP; false is SDIN-II
        inter: bool = True  # H reaches the MLP; false is SDIN-III

        @model_validator(mode="after")
        def _consistent(self) -> "SDIN.Options":
            if self.size % self.heads:
                raise ValueError(f"size={self.size} must be a multiple of heads={self.heads}")
            if not (self.intra or self.inter):
                raise ValueError("with neither intra nor inter the MLP would see no history; set one of them to true")
            return self

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.options = options
        self.inputs = Inputs(settings, tables, settings.embedding_size, settings.topic_size)
        self.click = Linear(self.inputs.item_size, options.size)
        self.session = SessionInterest(options.sessions, options.session_length, options.size, options.heads)
        rnn = {"lstm": nn.LSTM, "gru": nn.GRU}[options.rnn]
        self.between = rnn(options.size, options.size, batch_first=True, bidirectional=True) if options.inter else None
        sizes = [options.size] * options.intra + [2 * options.size] * options.inter
        attentions = [BilinearAttention(size, self.inputs.item_size) for size in sizes if options.pooling == "attention"]
        self.attentions = nn.ModuleList(attentions)
        self.mlp = InterestMLP(settings, self.inputs, sum(sizes))

    @property
    def window(self) -> LatestSessions:
        return LatestSessions(self.options.sessions, self.options.session_length, self.options.gap_minutes)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.logits_of(self.inputs(batch), batch)

    def logits_of(self, x: Embedded, batch: Batch) -> torch.Tensor:
        """The logits [B, N] of an embedded batch."""
        options = self.options
        y = split_sessions(x, batch.history_at, options.gap_minutes, options.sessions, options.session_length)
        mask_BSL = y.mask_BH.unflatten(1, (options.sessions, options.session_length))
        mask_BS = mask_BSL.any(2)
        intra_BSX = self.session(apply_to_clicks(self.click, y).view(*mask_BSL.shape, -1), mask_BSL)
        states = [intra_BSX] if options.intra else []
        if self.between is not None:
            states.append(run_rnn(self.between, intra_BSX, mask_BS))
        if options.pooling == "attention":
            pairs = zip(self.attentions, states, strict=True)
            pooled = [attend(x, state, mask_BS) @ state for attend, state in pairs]
        else:
            share_BS = mask_BS / mask_BS.sum(1, keepdim=True).clamp(min=1)
            pooled = [(share_BS[:, None] @ state).expand(-1, batch.candidates.shape[1], -1) for state in states]
        return self.mlp(x, torch.cat(pooled, -1))


class SessionInterest(nn.Module):
    """The interest I of each session: bias encoding, self-attention, feed-forward layer, mean."""

    def __init__(self, max_sessions: int, length: int, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.session_bias = nn.Parameter(torch.zeros(max_sessions, 1, 1))
        self.position_bias = nn.Parameter(torch.zeros(length, 1))
        self.unit_bias = nn.Parameter(torch.zeros(size))
        self.attention = nn.Linear(size, 3 * size, bias=False)  # W^Q, W^K, W^V of all heads
        self.heads_out = nn.Linear(size, size, bias=False)
        self.feed_forward = nn.Sequential(Linear(size, 4 * size), nn.ReLU(), Linear(4 * size, size))
        self.norms = nn.ModuleList([nn.LayerNorm(size), nn.LayerNorm(size)])

    def forward(self, clicks_BSLX: torch.Tensor, mask_BSL: torch.Tensor) -> torch.Tensor:
        """The interests [B, S, X], zeros for empty sessions."""
        mask_QL = mask_BSL.flatten(0, 1)
        filled_R = mask_QL.any(1).nonzero().squeeze(1)
        mask_RL = mask_QL[filled_R]
        bias_SLX = self.session_bias + self.position_bias + self.unit_bias
        clicks_RLX = (clicks_BSLX + bias_SLX).flatten(0, 1).index_select(0, filled_R)
        query, key, value = self.attention(clicks_RLX).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, mask_RL[:, None, None])
        attended_RLX = self.norms[0](clicks_RLX + self.heads_out(mixed.transpose(1, 2).flatten(2)))
        interests_RLX = self.norms[1](attended_RLX + self.feed_forward(attended_RLX))
        share_RL = mask_RL / mask_RL.sum(1, keepdim=True)
        means_RX = (share_RL[:, None] @ interests_RLX).squeeze(1)
        return means_RX.new_zeros(len(mask_QL), means_RX.shape[1]).index_copy(0, filled_R, means_RX).view(*mask_BSL.shape[:2], -1)
