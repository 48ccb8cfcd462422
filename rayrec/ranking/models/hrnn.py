"""`hrnn`: Quadrana et al., "Personalizing Session-based Recommendations with Hierarchical Recurrent Neural Networks" (RecSys 2017).

A GRU over the clicks of a session ends in the session's state s_m. A GRU over the sessions turns it into the user's state
c_m = GRU(s_m, c_{m-1}) (eq. 3), from which the next session's GRU starts: s_{m+1,0} = tanh(W c_m + b) (eq. 4-5). The history is the
state at the time of the request: that after the last click of its session, or the start of a new session when the last click is too
long ago. The candidate enters only at the end: logit = MLP(request, candidate, history). With `pooling: attention`, the history is
the sum of the states s_m of all sessions, weighed by softmax(s_m^T W c) for the candidate c; the short-video CTR paper has SDIN
compared with such a model (see docs/papers.md). As in `sdin`, the sessions are cut from the whole history, whatever
`ranker.history_length` says.

Shapes: B requests, N candidates, S sessions, L clicks of a session, X a state.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from rayrec.config import Count, Ranker, Section
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.data.windows import MINUTE_MS, LatestSessions
from rayrec.ranking.embedding import Inputs
from rayrec.ranking.layers import Linear
from rayrec.ranking.model import RankingModel
from rayrec.ranking.sequences import BilinearAttention, InterestMLP, apply_to_clicks, split_sessions


class HRNN(RankingModel):
    class Options(Section):
        sessions: Count = 5
        session_length: Count = 10
        gap_minutes: Annotated[float, Field(gt=0)] = 30  # between two clicks of different sessions
        size: Count = 32  # of the states
        pooling: Literal["last", "attention"] = "last"  # of the sessions' states

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.options = options
        self.inputs = Inputs(settings, tables, settings.embedding_size, settings.topic_size)
        self.click = Linear(self.inputs.item_size, options.size)
        self.within = nn.GRU(options.size, options.size, batch_first=True)
        self.across = nn.GRUCell(options.size, options.size)
        self.begin = nn.Sequential(Linear(options.size, options.size), nn.Tanh())
        attends = options.pooling == "attention"
        self.attention = BilinearAttention(options.size, self.inputs.item_size) if attends else None
        self.mlp = InterestMLP(settings, self.inputs, options.size)

    @property
    def window(self) -> LatestSessions:
        return LatestSessions(self.options.sessions, self.options.session_length, self.options.gap_minutes)

    def forward(self, batch: Batch) -> torch.Tensor:
        x, options = self.inputs(batch), self.options
        y = split_sessions(x, batch.history_at, options.gap_minutes, options.sessions, options.session_length)
        clicks_BSLX = apply_to_clicks(self.click, y).unflatten(1, (options.sessions, options.session_length))
        lengths_BS = y.mask_BH.unflatten(1, clicks_BSLX.shape[1:3]).sum(2)
        # `split_sessions` puts the newest click first; a GRU reads the oldest first.
        oldest_L = torch.arange(options.session_length, device=lengths_BS.device)
        order_BSL = (lengths_BS[..., None] - 1 - oldest_L).clamp(min=0)
        clicks_BSLX = clicks_BSLX.gather(2, order_BSL[..., None].expand_as(clicks_BSLX))
        states_BSX, user_BX = self._session_states(clicks_BSLX, lengths_BS)
        if self.attention is not None:
            return self.mlp(x, self.attention(x, states_BSX, lengths_BS > 0) @ states_BSX)
        latest_B = (batch.history_at * x.mask_BH).amax(1)
        continues_B1 = (batch.at - latest_B <= options.gap_minutes * MINUTE_MS)[:, None]
        history_BX = torch.where(continues_B1, states_BSX[:, 0], self.begin(user_BX))
        return self.mlp(x, history_BX[:, None].expand(-1, batch.candidates.shape[1], -1))

    def _session_states(self, clicks_BSLX: torch.Tensor, lengths_BS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The state of each session [B, S, X], the newest first, and the user's state after all of them [B, X]."""
        user_BX = clicks_BSLX.new_zeros(len(clicks_BSLX), self.options.size)
        states = [self.begin(user_BX)]
        for clicks_BLX, length_B in zip(clicks_BSLX.unbind(1)[::-1], lengths_BS.unbind(1)[::-1], strict=True):
            mask_B1 = length_B[:, None] > 0
            states_BLX, _ = self.within(clicks_BLX, self.begin(user_BX)[None])
            last_B = (length_B - 1).clamp(min=0)
            states.append(torch.where(mask_B1, states_BLX[torch.arange(len(last_B), device=last_B.device), last_B], states[-1]))
            user_BX = torch.where(mask_B1, self.across(states[-1], user_BX), user_BX)
        return torch.stack(states[:0:-1], 1), user_BX
