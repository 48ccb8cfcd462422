"""The layers of which models over fields are made.

Shapes: B requests, N candidates, V values, R / C sizes of a request / a candidate, F / G fields of a request / a candidate,
D embedding, E all fields of an item concatenated, A the first hidden layer.
"""

from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from rayrec.config import Ranker
from rayrec.ranking.embedding import Embedded, Inputs
from rayrec.ranking.gathering import gather

Activation = Callable[[int], nn.Module]  # for a layer of this size


def relu(size: int) -> nn.Module:
    return nn.ReLU()


class Linear(nn.Linear):
    """A linear map whose bias starts at zero. PyTorch's own starts at random, which cost DIN .003 of AUC (docs/lab-notes.md)."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Head(Linear):
    """The last layer of a network: one logit from its last hidden layer, which towers of several goals can read, too."""

    def __init__(self, size: int) -> None:
        super().__init__(size, 1)


def mlp(sizes: list[int], dropout: float, activation: Activation = relu) -> nn.Sequential:
    """Layers of the given sizes, the first of which is that of the input, followed by a layer with a single logit."""
    return nn.Sequential(*mlp_layers(sizes, dropout, activation), Head(sizes[-1]))


def mlp_layers(sizes: list[int], dropout: float, activation: Activation = relu) -> list[nn.Module]:
    """The hidden layers of an MLP."""
    return [layer for before, after in pairwise(sizes) for layer in (Linear(before, after), activation(after), nn.Dropout(dropout))]


class RequestMLP(nn.Module):
    """An MLP over concat(request, candidate). The first layer computes the request's part once, for all N candidates."""

    def __init__(
        self, request_size: int, candidate_size: int, hidden: list[int], dropout: float, activation: Activation = relu
    ) -> None:
        super().__init__()
        self.request = Linear(request_size, hidden[0])
        self.candidate = nn.Linear(candidate_size, hidden[0], bias=False)
        self.rest = nn.Sequential(activation(hidden[0]), nn.Dropout(dropout), *mlp(hidden, dropout, activation))

    def forward(self, request_BR: torch.Tensor, candidate_BNC: torch.Tensor) -> torch.Tensor:
        """The logits [B, N]."""
        return self._rest(request_BR, self.candidate(candidate_BNC))

    def of_items(self, request_BR: torch.Tensor, x: Embedded, more_BNX: torch.Tensor | None = None) -> torch.Tensor:
        """The logits [B, N] where a candidate is its item's fields and what more is known of it for this request."""
        if x.frozen is None:
            return self(request_BR, x.candidates_BNE if more_BNX is None else torch.cat([x.candidates_BNE, more_BNX], -1))
        of_fields, of_more = self.candidate.weight.tensor_split([x.items_UE.shape[1]], 1)
        first_BNA = gather(x.of_items(self.candidate, lambda items_UE: functional.linear(items_UE, of_fields)), x.index_BN)
        return self._rest(request_BR, first_BNA if more_BNX is None else first_BNA + functional.linear(more_BNX, of_more))

    def _rest(self, request_BR: torch.Tensor, first_BNA: torch.Tensor) -> torch.Tensor:
        """The logits [B, N] with the candidates' part of the first layer."""
        return self.rest(self.request(request_BR)[:, None] + first_BNA).squeeze(-1)


class Dice(nn.Module):
    """The activation of DIN (Zhou et al., 2018, section 5.2): p(s) s + (1 - p(s)) a s, with p(s) = sigmoid((s - mean) / deviation).

    Mean and deviation are those of the batch in training and their moving averages afterwards, both for each of the `size` units,
    and so is the slope a. Each worker takes the statistics of its own share of a batch.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(size, eps=1e-8, affine=False)
        self.slope = nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The activations of [..., size]."""
        rows, norm = x.flatten(0, -2), self.norm
        of_batch = self.training and len(rows) > 1  # a single row has no deviation
        scaled = functional.batch_norm(
            rows, norm.running_mean, norm.running_var, training=of_batch, momentum=norm.momentum or 0.0, eps=norm.eps
        )
        share = torch.sigmoid(scaled).view_as(x)
        return x * torch.lerp(self.slope, torch.ones_like(self.slope), share)


class HistoryTop(nn.Module):
    """Connects the history to the last layer (`history_connection: top`).

    A last linear layer over concat(hidden, history) is the sum of a linear layer over each. So this layer gives a logit that is
    added to the network's, and models without an MLP can have it too.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 1, bias=False)

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        """The logits [B, 1] of a history [B, X], or [B, N] of histories [B, N, X]."""
        logit = self.linear(history)
        return logit if history.ndim == 2 else logit.squeeze(-1)


class ClickedMean(nn.Module):
    """The mean of the clicked videos' vectors, field by field. `history_connection` says where it enters the model.

    At the input, the means are further fields of the request; `request_size` includes them. For the top, see `HistoryTop`.
    """

    def __init__(self, settings: Ranker, inputs: Inputs) -> None:
        super().__init__()
        self.at_input = settings.history_at_input
        self.request_size = inputs.request_size + (inputs.item_size if self.at_input else 0)
        self.top = HistoryTop(inputs.item_size) if settings.history_at_top else None

    def request(self, x: Embedded) -> torch.Tensor:
        """The fields of the request [B, R]."""
        return torch.cat([x.request_BR, x.mean_clicked_BE], 1) if self.at_input else x.request_BR

    def forward(self, x: Embedded, logits_BN: torch.Tensor) -> torch.Tensor:
        """The logits [B, N], to which the history is added where it is connected at the top."""
        return logits_BN if self.top is None else logits_BN + self.top(x.mean_clicked_BE)


def pairwise_dot_products(request_BFD: torch.Tensor, candidates_BNFD: torch.Tensor) -> torch.Tensor:
    """The sum of the dot products of all pairs among the fields of request and candidate [B, N].

    It takes linear time (Rendle, "Factorization Machines", 2010, lemma 3.1), and the request's part is computed once.
    """
    sums_BN: torch.Tensor = _PairwiseDotProducts.apply(request_BFD, candidates_BNFD)
    return sums_BN


class _PairwiseDotProducts(torch.autograd.Function):
    """The derivative by a field is the sum of all others: the total less the field itself."""

    @staticmethod
    def forward(ctx: Any, request_BFD: torch.Tensor, candidates_BNFD: torch.Tensor) -> torch.Tensor:
        total_BND = request_BFD.sum(1, keepdim=True) + candidates_BNFD.sum(2)
        squares_BN = request_BFD.square().sum((1, 2))[:, None] + candidates_BNFD.square().sum((2, 3))
        ctx.save_for_backward(request_BFD, candidates_BNFD, total_BND)
        return 0.5 * (total_BND.square().sum(-1) - squares_BN)

    @staticmethod
    def backward(ctx: Any, gradient_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        request_BFD, candidates_BNFD, total_BND = ctx.saved_tensors
        gradient_BN1, of_total_BND = gradient_BN[..., None], gradient_BN[..., None] * total_BND
        of_request = of_total_BND.sum(1, keepdim=True) - gradient_BN1.sum(1, keepdim=True) * request_BFD
        return of_request, of_total_BND[:, :, None] - gradient_BN1[..., None] * candidates_BNFD


class PairAttention(nn.Module):
    """Pools the elementwise products of all pairs of fields by attention.

    Xiao et al., "Attentional Factorization Machines" (2017), eq. 4-5: the sum of a_ij (v_i * v_j) over i < j, where a is the
    softmax over all pairs of h^T ReLU(W (v_i * v_j) + b), with dropout on a as in the authors' code. Pairs within the request are
    computed and scored once. The B N (F G + G^2 / 2) pairs with a candidate take D + attention_size numbers each.
    """

    def __init__(self, dim: int, attention_size: int, dropout: float) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, attention_size), nn.ReLU(), nn.Linear(attention_size, 1, bias=False))
        self.dropout = nn.Dropout(dropout)

    def forward(self, request_BFD: torch.Tensor, candidates_BNGD: torch.Tensor) -> torch.Tensor:
        """The pooled products [B, N, D]."""
        within_BPD = pairwise_products(request_BFD)
        across_BNQD = (request_BFD[:, None, :, None] * candidates_BNGD[:, :, None]).flatten(2, 3)
        others_BNQD = torch.cat([across_BNQD, pairwise_products(candidates_BNGD)], 2)
        within_BN1P = self.score(within_BPD).mT[:, None].expand(-1, others_BNQD.shape[1], -1, -1)
        shares = self.dropout(torch.softmax(torch.cat([within_BN1P, self.score(others_BNQD).mT], -1), -1))
        of_within, of_others = shares.split([within_BPD.shape[1], others_BNQD.shape[2]], -1)
        return of_within.squeeze(2) @ within_BPD + (of_others @ others_BNQD).squeeze(2)


def pairwise_products(fields: torch.Tensor) -> torch.Tensor:
    """The elementwise products of all pairs of the fields [..., F, D]: [..., F (F - 1) / 2, D]."""
    pairs = list(combinations(fields.unbind(-2), 2))
    return torch.stack([one * other for one, other in pairs], -2) if pairs else fields[..., :0, :]


def value_counts(values_BX: torch.Tensor, size: int) -> torch.Tensor:
    """How often each value below `size` occurs in a row: float32 [B, size]. Value 0 is not counted."""
    counts_BK = torch.zeros(values_BX.shape[0], size, device=values_BX.device)
    counts_BK.scatter_add_(1, values_BX, (values_BX > 0).float())
    return counts_BK
