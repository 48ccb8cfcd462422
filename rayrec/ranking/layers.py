"""What the models are composed of. Shapes: B requests, N candidates, V values, R / C sizes of a request / a candidate, F / G fields
of a request / a candidate, D embedding, E all fields of an item side by side.
"""

from itertools import combinations, pairwise

import torch
from torch import nn

from rayrec.config import Ranker
from rayrec.ranking.embedding import Embedded, Inputs


def mlp(sizes: list[int], dropout: float) -> nn.Sequential:
    """Layers of the given sizes, the first of which is the input's, and a last one of a single logit."""
    hidden = [layer for before, after in pairwise(sizes) for layer in (nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout))]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))


class RequestMLP(nn.Module):
    """An MLP over concat(request, candidate) whose first layer does the request's part once and broadcasts it over N candidates."""

    def __init__(self, request_size: int, candidate_size: int, hidden: list[int], dropout: float) -> None:
        super().__init__()
        self.request = nn.Linear(request_size, hidden[0])
        self.candidate = nn.Linear(candidate_size, hidden[0], bias=False)
        self.rest = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), *mlp(hidden, dropout))

    def forward(self, request_BR: torch.Tensor, candidate_BNC: torch.Tensor) -> torch.Tensor:
        """To logits [B, N]."""
        return self.rest(self.request(request_BR)[:, None] + self.candidate(candidate_BNC)).squeeze(-1)


class HistoryTop(nn.Module):
    """The history's way into the last layer (`history_connection: top`).

    A last linear layer over concat(hidden, history) is one over each, added: so this is a logit beside the network's own, and
    models without an MLP have it too.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 1, bias=False)

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        """[B, X] to [B, 1], or [B, N, X] to [B, N]."""
        logit = self.linear(history)
        return logit if history.ndim == 2 else logit.squeeze(-1)


class ClickedMean(nn.Module):
    """The clicked videos as the mean of each of their fields' vectors, which enters where `history_connection` says.

    At the input: as further fields of the request, whose size with them is `request_size`. At the top: see `HistoryTop`.
    """

    def __init__(self, settings: Ranker, inputs: Inputs) -> None:
        super().__init__()
        self.at_input = settings.history_at_input
        self.request_size = inputs.request_size + (inputs.item_size if self.at_input else 0)
        self.top = HistoryTop(inputs.item_size) if settings.history_at_top else None

    def request(self, x: Embedded) -> torch.Tensor:
        """The request's fields [B, R]."""
        return torch.cat([x.request_BR, x.mean_clicked_BE], 1) if self.at_input else x.request_BR

    def forward(self, x: Embedded, logits_BN: torch.Tensor) -> torch.Tensor:
        """The logits [B, N], with what the history adds to them at the top."""
        return logits_BN if self.top is None else logits_BN + self.top(x.mean_clicked_BE)


def all_pairs(request_BFD: torch.Tensor, candidates_BNFD: torch.Tensor) -> torch.Tensor:
    """The sum of the dot products of all pairs of fields of request and candidate together [B, N].

    In linear time, and what concerns the request alone once: Rendle, "Factorization Machines" (2010), lemma 3.1.
    """
    total_BND = request_BFD.sum(1, keepdim=True) + candidates_BNFD.sum(2)
    squares_BN = request_BFD.square().sum((1, 2))[:, None] + candidates_BNFD.square().sum((2, 3))
    return 0.5 * (total_BND.square().sum(-1) - squares_BN)


class PairAttention(nn.Module):
    """The elementwise products of all pairs of fields, pooled by attention.

    Xiao et al., "Attentional Factorization Machines" (2017), eq. 4-5: sum of a_ij (v_i * v_j) over i < j, where a is the softmax
    over all pairs of h^T ReLU(W (v_i * v_j) + b); dropout on a, as in the authors' code. Pairs within the request are made and
    scored once; those with a candidate, B N (F G + G^2 / 2) of them, take D + attention_size numbers each.
    """

    def __init__(self, dim: int, attention_size: int, dropout: float) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, attention_size), nn.ReLU(), nn.Linear(attention_size, 1, bias=False))
        self.dropout = nn.Dropout(dropout)

    def forward(self, request_BFD: torch.Tensor, candidates_BNGD: torch.Tensor) -> torch.Tensor:
        """To [B, N, D]."""
        within_BPD = products(request_BFD)
        across_BNQD = (request_BFD[:, None, :, None] * candidates_BNGD[:, :, None]).flatten(2, 3)
        others_BNQD = torch.cat([across_BNQD, products(candidates_BNGD)], 2)
        within_BN1P = self.score(within_BPD).mT[:, None].expand(-1, others_BNQD.shape[1], -1, -1)
        shares = self.dropout(torch.softmax(torch.cat([within_BN1P, self.score(others_BNQD).mT], -1), -1))
        of_within, of_others = shares.split([within_BPD.shape[1], others_BNQD.shape[2]], -1)
        return of_within.squeeze(2) @ within_BPD + (of_others @ others_BNQD).squeeze(2)


def products(fields: torch.Tensor) -> torch.Tensor:
    """The elementwise products of all pairs of fields: [..., F, D] to [..., F (F - 1) / 2, D]."""
    pairs = list(combinations(fields.unbind(-2), 2))
    return torch.stack([one * other for one, other in pairs], -2) if pairs else fields[..., :0, :]


def value_counts(values_BX: torch.Tensor, size: int) -> torch.Tensor:
    """How often each value below `size` stands in a row, as float32 [B, size]; value 0 is not counted."""
    counts_BK = torch.zeros(values_BX.shape[0], size, device=values_BX.device)
    counts_BK.scatter_add_(1, values_BX, (values_BX > 0).float())
    return counts_BK
