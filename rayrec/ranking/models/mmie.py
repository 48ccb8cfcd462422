"""`mmie`: Zhou et al., "Deep Interest Evolution Network for Click-Through Rate Prediction" (DIEN, AAAI 2019), on multimodal items.

Interest extractor: a GRU over the clicked videos e_t gives interest states h_t. Auxiliary loss: h_t distinguishes the next click
e_{t+1} from a video e'_{t+1} that was not clicked, -log sigmoid(h_t^T e_{t+1}) - log(1 - sigmoid(h_t^T e'_{t+1})). Interest
evolution: the candidate c weighs the states by a_t = softmax(h_t^T W c), and a second GRU over the states evolves the interest in
c, its update gate scaled by the weight (AUGRU): u'_t = a_t u_t, h'_t = (1 - u'_t) h'_{t-1} + u'_t n_t.
logit = MLP(request, candidate, the last h').

e_t is a learned projection of all fields of a video, including its modalities. The negative of a click is any other video of the
batch; each of several workers draws from its own share of the batch, so that with the auxiliary loss their number makes a
difference.
Shapes: B requests, N candidates, H history, X a state.
"""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch.nn.functional import softplus

from rayrec.config import Count, Ranker, Section
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.ranking.embedding import Embedded, Inputs
from rayrec.ranking.layers import Linear
from rayrec.ranking.model import RankingModel
from rayrec.ranking.sequences import AUGRU, BilinearAttention, InterestMLP, apply_to_clicks, compacted


class MMIE(RankingModel):
    class Options(Section):
        size: Count = 32  # of the states
        auxiliary: Annotated[float, Field(ge=0)] = 0  # weight of the auxiliary loss; 1 in the paper

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.auxiliary = options.auxiliary
        self.inputs = Inputs(settings, tables, settings.embedding_size, settings.topic_size)
        self.click = Linear(self.inputs.item_size, options.size)
        self.extractor = AUGRU(options.size)
        self.attention = BilinearAttention(options.size, self.inputs.item_size)
        self.evolution = AUGRU(options.size)
        self.mlp = InterestMLP(settings, self.inputs, options.size)

    def forward(self, batch: Batch) -> torch.Tensor:
        x = compacted(self.inputs(batch))
        return self._logits(x, self._interests(x, apply_to_clicks(self.click, x)))

    def losses(self, batch: Batch) -> torch.Tensor:
        if not self.auxiliary:
            return super().losses(batch)
        x = compacted(self.inputs(batch))
        clicks_BHX = apply_to_clicks(self.click, x)
        states_BHX = self._interests(x, clicks_BHX)
        losses_B = self.label_losses(self.with_additions(self._logits(x, states_BHX), batch), batch)
        first = int(
            bool((batch.history == 0).any() | (batch.candidates == 0).any())
        )  # behind "no item", which comes before all videos
        if len(x.items_UE) - first < 2:
            return losses_B  # a batch of a single video has no negatives
        others = replace(x, index_BH=draw_others(x.index_BH, first, len(x.items_UE)))
        return losses_B + self.auxiliary * next_click_losses(
            states_BHX[:, :-1], clicks_BHX[:, 1:], apply_to_clicks(self.click, others)[:, 1:], x.mask_BH[:, 1:]
        )

    def _interests(self, x: Embedded, clicks_BHX: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.extractor(clicks_BHX, x.mask_BH[:, None]), 1)

    def _logits(self, x: Embedded, states_BHX: torch.Tensor) -> torch.Tensor:
        shares_BNH = self.attention(x, states_BHX, x.mask_BH)
        return self.mlp(x, self.evolution(states_BHX, shares_BNH)[-1])


def draw_others(index: torch.Tensor, first: int, end: int) -> torch.Tensor:
    """For each index a random one from `first` to before `end` that is another, all equally likely."""
    drawn = torch.randint_like(index, first, end - 1)
    return drawn + (drawn >= index).long()


def next_click_losses(states: torch.Tensor, clicks: torch.Tensor, others: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The auxiliary loss of each request [B]: the mean over all its clicks but the first. All [B, H - 1, X], `mask` [B, H - 1]."""
    losses = softplus(-(states * clicks).sum(-1)) + softplus((states * others).sum(-1))
    return (losses * mask).sum(1) / mask.sum(1).clamp(min=1)
