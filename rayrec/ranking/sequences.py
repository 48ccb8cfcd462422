"""The layers of models that read the history as a sequence: sessions, recurrence, attention and the layer that predicts the click.

Shapes: B requests, N candidates, H history, S sessions, L clicks of a session, T states of any sequence, E all fields of an item
concatenated, R / C all that is known of a request / a candidate, A first hidden layer of an attention, X a state or an interest.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from rayrec.config import Count, Ranker, Section
from rayrec.data.windows import MINUTE_MS
from rayrec.ranking.click_pairs import ClickPairs, pair_scores
from rayrec.ranking.embedding import Embedded, Inputs, masked_softmax
from rayrec.ranking.gathering import gather
from rayrec.ranking.layers import Activation, Dice, HistoryTop, Linear, RequestMLP, relu


def compacted(x: Embedded) -> Embedded:
    """The same batch with all clicks in front, in the same order, and the gaps behind; cut to the longest history of the batch."""
    longest = max(1, int(x.mask_BH.sum(1).max()))
    order_BH = (~x.mask_BH).byte().argsort(dim=1, stable=True)[:, :longest]
    return replace(x, index_BH=x.index_BH.gather(1, order_BH), mask_BH=x.mask_BH.gather(1, order_BH))


def split_sessions(x: Embedded, at_BH: torch.Tensor, gap_minutes: float, max_sessions: int, length: int) -> Embedded:
    """The same batch with its clicks arranged by session (Feng et al., DSIN, 2019): H = S * L slots, some of which are empty.

    A session ends where the next click comes more than `gap_minutes` later. The `length` latest clicks of each of the
    `max_sessions` latest sessions are kept. The newest session comes first, and in it the newest click, so that empty slots follow
    filled ones.
    """
    mask_BH, at_BH = x.mask_BH.flip(1), at_BH.flip(1)
    order_BH = (~mask_BH).byte().argsort(dim=1, stable=True)
    mask_BH, at_BH = mask_BH.gather(1, order_BH), at_BH.gather(1, order_BH)
    new_BH = nn.functional.pad(at_BH[:, :-1] - at_BH[:, 1:] > gap_minutes * MINUTE_MS, (1, 0))
    session_BH, click_BH = new_BH.cumsum(1), torch.arange(at_BH.shape[1], device=at_BH.device).expand_as(at_BH)
    position_BH = click_BH - (click_BH * new_BH).cummax(1).values  # of the click in its session
    kept_BH = mask_BH & (session_BH < max_sessions) & (position_BH < length)
    slots = max_sessions * length
    slot_BH = torch.where(kept_BH, session_BH * length + position_BH, slots)  # all clicks to leave out share one more slot

    def into_slots(values_BH: torch.Tensor) -> torch.Tensor:
        return values_BH.new_zeros(len(values_BH), slots + 1).scatter_(1, slot_BH, values_BH)[:, :-1]

    return replace(x, index_BH=into_slots(x.index_BH.flip(1).gather(1, order_BH)), mask_BH=into_slots(kept_BH))


def apply_to_clicks(layer: nn.Module, x: Embedded) -> torch.Tensor:
    """The output of `layer` for the clicked videos [B, H, out].

    It is computed once for each distinct video, unless fusion gives a video another vector for each user.
    """
    return gather(x.of_items(layer), x.index_BH) if x.content is None else layer(x.clicked_BHE)


def apply_to_candidates(layer: nn.Module, x: Embedded) -> torch.Tensor:
    """The output of `layer` for the candidates [B, N, out], computed as for clicks."""
    return gather(x.of_items(layer), x.index_BN) if x.content is None else layer(x.candidates_BNE)


def run_rnn(layer: nn.RNNBase, sequence_BTX: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """The outputs of a recurrent layer at each step. `mask_BT` marks the steps of each sequence; later outputs are zeros."""
    lengths = mask_BT.sum(1).clamp(min=1).cpu()
    packed = nn.utils.rnn.pack_padded_sequence(sequence_BTX, lengths, batch_first=True, enforce_sorted=False)
    output, _ = nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=mask_BT.shape[1])
    return output * mask_BT[..., None]


class BilinearAttention(nn.Module):
    """Weighs the states of a sequence by their relevance for a candidate c: the softmax of h^T W c over the states h."""

    def __init__(self, state_size: int, candidate_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(candidate_size, state_size, bias=False)

    def forward(self, x: Embedded, states_BTX: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """The weights [B, N, T]."""
        candidates_BNX = self.linear(x.candidates_BNE) if x.frozen is None else apply_to_candidates(self.linear, x)
        return masked_softmax(candidates_BNX @ states_BTX.mT, mask_BT[:, None])


class AUGRU(nn.Module):
    """A GRU whose update gates are scaled by weights (Zhou et al., DIEN, 2019).

    A weight of 0 leaves the state as it is, and with a weight of 1 this is a GRU. So with a mask as weights it skips gaps.
    `nn.GRU` would need packed sequences for that, whose backward pass is several times slower on a CPU.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.input = Linear(size, 3 * size)
        self.gates, self.new = Linear(size, 2 * size), Linear(size, size)

    def forward(self, inputs_BTX: torch.Tensor, weights_BNT: torch.Tensor) -> list[torch.Tensor]:
        """The states [B, N, X] after each of T steps, starting from zeros."""
        size = inputs_BTX.shape[-1]
        gates_BTY, new_BTX = self.input(inputs_BTX).split([2 * size, size], -1)
        weights_BNT1 = weights_BNT.to(inputs_BTX.dtype)[..., None]
        states = [inputs_BTX.new_zeros(*weights_BNT.shape[:2], size)]
        for gates_BY, new_BX, weight_BN1 in zip(gates_BTY.unbind(1), new_BTX.unbind(1), weights_BNT1.unbind(2), strict=True):
            reset, update = torch.sigmoid(self.gates(states[-1]) + gates_BY[:, None]).chunk(2, -1)
            new_BNX = torch.tanh(torch.addcmul(new_BX[:, None], reset, self.new(states[-1])))
            states.append(torch.lerp(states[-1], new_BNX, update * weight_BN1))
        return states[1:]


class InterestMLP(nn.Module):
    """Predicts the click with an MLP over concat(request, candidate, interest).

    `history_connection` says where the interest enters.
    """

    def __init__(self, settings: Ranker, inputs: Inputs, interest_size: int, activation: Activation = relu) -> None:
        super().__init__()
        candidate_size = inputs.item_size + (interest_size if settings.history_at_input else 0)
        self.mlp = RequestMLP(inputs.request_size, candidate_size, settings.hidden, settings.dropout, activation)
        self.top = HistoryTop(interest_size) if settings.history_at_top else None
        self.at_input = settings.history_at_input

    def forward(self, x: Embedded, interest_BNX: torch.Tensor) -> torch.Tensor:
        """The logits [B, N]."""
        logits_BN = self.mlp.of_items(x.request_BR, x, interest_BNX if self.at_input else None)
        return logits_BN if self.top is None else logits_BN + self.top(interest_BNX)


class SequenceOptions(Section):
    """The options of models whose deep part can read the clicks in their order, beside the mean of their vectors."""

    # `gru` adds the last state of a GRU over the clicks, `gru_attention` its states weighed by the candidate's attention.
    sequence: Literal["mean", "gru", "gru_attention"] = "mean"
    size: Count = 32  # of the GRU's states


class ClickedSequence(nn.Module):
    """What the deep part of a model reads of the clicks in their order, beside the fields: the attention-based deep-width model.

    From the short-video CTR paper (see docs/papers.md). A GRU over the clicked videos gives states. With `gru`, the deep part gets
    the last one, once for each request; with `gru_attention` the sum of all, weighed by `BilinearAttention` for each candidate.
    They enter where `history_connection` says, by `request_size` and `candidate_size` more inputs of the MLP, and zeros stand for
    an empty history. With `mean`, or without a history connection, this layer adds nothing.
    """

    def __init__(self, settings: Ranker, options: SequenceOptions, inputs: Inputs) -> None:
        super().__init__()
        self.request_size = self.candidate_size = 0
        self.gru: AUGRU | None = None
        if options.sequence == "mean" or settings.history_connection == "none":
            return
        self.click, self.gru = Linear(inputs.item_size, options.size), AUGRU(options.size)
        attends = options.sequence == "gru_attention"
        self.attention = BilinearAttention(options.size, inputs.item_size) if attends else None
        self.top = HistoryTop(options.size) if settings.history_at_top else None
        if settings.history_at_input:
            self.request_size, self.candidate_size = (0, options.size) if attends else (options.size, 0)

    def forward(self, x: Embedded, request_BR: torch.Tensor, mlp: RequestMLP) -> torch.Tensor:
        """The logits [B, N] of the deep part: of `mlp` over the request's fields, the candidates' and the sequence."""
        if self.gru is None:
            return mlp.of_items(request_BR, x)
        y = compacted(x)
        states_BTX = torch.cat(self.gru(apply_to_clicks(self.click, y), y.mask_BH[:, None]), 1)
        interest = states_BTX[:, -1]  # behind the last click a state stays as it is
        if self.attention is not None:
            interest = self.attention(x, states_BTX, y.mask_BH) @ states_BTX
        if self.request_size:
            request_BR = torch.cat([request_BR, interest], 1)
        logits_BN = mlp.of_items(request_BR, x, interest if self.candidate_size else None)
        return logits_BN if self.top is None else logits_BN + self.top(interest)


class ActivationUnit(nn.Module):
    """Scores the relevance of each click k for each candidate c: an MLP over [c, k, c - k, c * k] (DIN, 2018, Figure 2).

    Its first layer is W_c c + W_k k + W_d (c - k) + W_p (c * k) = (W_c + W_d) c + (W_k - W_d) k + W_p (c * k). The first term is
    computed once for each candidate, the second once for each click, and only the third for every pair. Where the candidates are
    many, each click makes a matrix (W_c + W_d) + W_p diag(k) of its own, and one product of these with all candidates is the layer.
    """

    def __init__(self, size: int, hidden: list[int], activation: str) -> None:
        super().__init__()
        self.candidate = Linear(size, hidden[0])
        self.click = nn.Linear(size, hidden[0], bias=False)
        self.product = nn.Linear(size, hidden[0], bias=False)
        active: Activation = {"prelu": lambda size: PReLU(), "dice": Dice, "sigmoid": lambda size: nn.Sigmoid()}[activation]
        layers = [layer for before, after in pairwise(hidden) for layer in (active(before), Linear(before, after))]
        self.rest = nn.Sequential(*layers, active(hidden[-1]), Linear(hidden[-1], 1))
        self.takes_statistics, self.is_prelu = activation == "dice", activation == "prelu"

    def forward(self, c_BNX: torch.Tensor, k_BHX: torch.Tensor, mask_BH: torch.Tensor) -> torch.Tensor:
        """The scores [B, N, H]. Those of padding are arbitrary; `mask_BH` keeps it out of statistics."""
        pairs_BNHA = self._by_click(c_BNX, k_BHX) if c_BNX.shape[1] > c_BNX.shape[2] else self._by_pair(c_BNX, k_BHX)
        if not self.takes_statistics:
            return self.rest(pairs_BNHA).squeeze(-1)
        mask_BNH = mask_BH[:, None].expand(pairs_BNHA.shape[:3])
        scores = self.rest(pairs_BNHA[mask_BNH]).squeeze(-1)
        return scores.new_zeros(mask_BNH.shape).masked_scatter(mask_BNH, scores)

    def of_pairs(self, pairs: ClickPairs, c_BNX: torch.Tensor, k_UX: torch.Tensor) -> torch.Tensor:
        """The scores [Q] of pairs alone, for `trains_by_pair`: the same layers, but much faster to train on a CPU."""
        rest: list[Any] = [*self.rest]
        layers = [(active.slope, linear.weight, linear.bias) for active, linear in zip(rest[::2], rest[1::2], strict=True)]
        c_RX = c_BNX.flatten(0, 1)
        return pair_scores(pairs, c_RX, k_UX, self.candidate(c_RX), self.click(k_UX), self.product.weight, layers)

    def trains_by_pair(self, device: torch.device) -> bool:
        """Whether `of_pairs` can be used, and pays: for training on a CPU in single precision, with PReLU."""
        plain = device.type == "cpu" and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())
        return plain and torch.is_grad_enabled() and self.is_prelu

    def _by_pair(self, c_BNX: torch.Tensor, k_BHX: torch.Tensor) -> torch.Tensor:
        """The first layer [B, N, H, A], in little memory beside it."""
        pairs_BNHA = self.product(c_BNX[:, :, None] * k_BHX[:, None])
        # In place, because this tensor is large and nothing else uses it.
        return pairs_BNHA.add_(self.click(k_BHX)[:, None]).add_(self.candidate(c_BNX)[:, :, None])

    def _by_click(self, c_BNX: torch.Tensor, k_BHX: torch.Tensor) -> torch.Tensor:
        """The first layer [B, N, H, A], in one pass over it. The matrices take X numbers for each click and unit."""
        of_clicks_BXHA = torch.addcmul(self.candidate.weight.T[:, None], k_BHX.mT[..., None], self.product.weight.T[:, None])
        bias_BHA = self.click(k_BHX) + self.candidate.bias
        # As one more row of the matrices, because adding it to the product would take as long as the product.
        matrices = torch.cat([of_clicks_BXHA, bias_BHA[:, None]], 1).flatten(2)
        pairs = functional.pad(c_BNX, (0, 1), value=1.0) @ matrices
        return pairs.unflatten(2, bias_BHA.shape[1:])


class PReLU(nn.Module):
    """The same as `nn.PReLU()`, but several times faster on a CPU. Without gradients it works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.25))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slope = self.slope.to(x.dtype)
        if not torch.is_grad_enabled() and not x.is_cuda:
            return functional.leaky_relu_(x, slope.item())
        return torch.prelu(x, slope) if x.is_cuda else _PReLU.apply(x, slope)


class _PReLU(torch.autograd.Function):
    """Computes PReLU as a leaky ReLU, whose kernels are vectorised."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope.item()
        return functional.leaky_relu(x, ctx.slope)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (x,) = ctx.saved_tensors
        of_x = torch.ops.aten.leaky_relu_backward(gradient, x, ctx.slope, False)
        if abs(1 - ctx.slope) < 0.01:
            return of_x, torch.dot(gradient.flatten(), x.clamp(max=0).flatten())
        # g x sums to P + N over positive and negative x, and of_x x to P + slope N. Dot products need no large temporary tensor.
        sums = torch.dot(gradient.flatten(), x.flatten()), torch.dot(of_x.flatten(), x.flatten())
        return of_x, (sums[0] - sums[1]) / (1 - ctx.slope)
