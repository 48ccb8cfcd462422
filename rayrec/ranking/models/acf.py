"""`acf`: Chen et al., "Attentive Collaborative Filtering: Multimedia Recommendation with Item- and Component-Level Attention"
(SIGIR 2017), the baseline of Hasama & Li.

logit = (u + sum_l alpha_l p_l)^T v + the weights of all fields + b. u is the user's vector, v the candidate's, p_l the auxiliary
vector of the clicked video l. Item-level attention alpha: the softmax over the clicked videos of
w_1^T ReLU(W_1u u + W_1v v_l + W_1p p_l + W_1x x_l + b_1). Component-level attention makes the content x_l = sum_m beta_lm x_lm of
the modalities m that the video has: beta is their softmax of w_2^T ReLU(W_2u u + W_2x x_lm + b_2).

In the paper, vectors belong to ids, and BPR orders pairs of items. Here u, v and p are projections of all fields (including a
video's modalities), so that unseen users and videos have them too, and the loss is the log loss, as for all models. This attention
fuses the modalities, whatever `ranker.fusion` says. The scalar c that the paper adds to each score is left out, since it does not
change a softmax.

Shapes: B requests, N candidates, H history, U distinct items, M modalities, D embedding, A attention_size.
"""

import torch
from torch import nn

from rayrec.config import Count, Ranker, Section
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.ranking.embedding import Embedded, Inputs, masked_softmax
from rayrec.ranking.gathering import gather
from rayrec.ranking.layers import HistoryTop, Linear
from rayrec.ranking.model import RankingModel


class ACF(RankingModel):
    modalities: torch.Tensor  # int64 [M], their indices among the item's fields

    class Options(Section):
        attention_size: Count = 16

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        dim, hidden = settings.embedding_size, options.attention_size
        self.inputs = Inputs(settings.model_copy(update={"fusion": "concat"}), tables, dim)
        self.user = nn.Linear(self.inputs.request_size, dim, bias=False)
        self.item = nn.Linear(self.inputs.item_size, 2 * dim, bias=False)  # v and p
        self.top = HistoryTop(dim) if settings.history_at_top else None
        self.bias = nn.Parameter(torch.zeros(()))
        indices = [self.inputs.item_fields.index(name) for name in sorted(tables.items.vectors)]
        self.register_buffer("modalities", torch.tensor(indices, dtype=torch.int64), persistent=False)
        self.of_clicks = Attention(dim, (3 if indices else 2) * dim, hidden)
        self.of_components = Attention(dim, dim, hidden) if indices else None

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.inputs(batch)
        user_BD, items_UX = self.user(x.request_BR), x.of_items(self.item)
        clicked_BHX = gather(items_UX, x.index_BH)
        seen_BHX = clicked_BHX if self.of_components is None else torch.cat([clicked_BHX, self._content(x, user_BD)], -1)
        shares_BH = self.of_clicks(user_BD[:, None], seen_BHX, x.mask_BH)
        interest_BD = torch.einsum("bh,bhd->bd", shares_BH, clicked_BHX[..., x.dim :])
        vectors_BND = gather(items_UX[:, : x.dim], x.index_BN)
        taste_BD = user_BD + interest_BD if self.settings.history_at_input else user_BD
        logits_BN = self.bias + x.linear_BN + torch.einsum("bd,bnd->bn", taste_BD, vectors_BND)
        return logits_BN if self.top is None else logits_BN + self.top(interest_BD)

    def _content(self, x: Embedded, user_BD: torch.Tensor) -> torch.Tensor:
        """The content of the clicked videos for each user [B, H, D]."""
        assert self.of_components is not None
        components_BHMD = gather(x.fields(x.items_UE), x.index_BH).index_select(2, self.modalities)
        mask_BHM = (components_BHMD != 0).any(-1)  # the projection of a missing modality is zeros
        shares_BHM = self.of_components(user_BD[:, None, None], components_BHMD, mask_BHM)
        return torch.einsum("bhm,bhmd->bhd", shares_BHM, components_BHMD)


class Attention(nn.Module):
    """Weighs what a user sees by a hidden layer over concat(user, seen) and a softmax; masked entries get 0."""

    def __init__(self, user_size: int, seen_size: int, hidden: int) -> None:
        super().__init__()
        self.user = Linear(user_size, hidden)
        self.seen = nn.Linear(seen_size, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, user: torch.Tensor, seen: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The weights [..., X] of `seen` [..., X, S] for users [..., 1, D], with a mask [..., X]."""
        scores = self.score(torch.relu(self.user(user) + self.seen(seen))).squeeze(-1)
        return masked_softmax(scores, mask)
