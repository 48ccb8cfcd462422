"""The attention of DIN over the pairs of a candidate and a click alone, for training on a CPU.

Most of a step is passes over tensors with a row for each pair, which are larger than a core's cache. So padding is left out, what
depends on an item alone is computed once for each distinct item, and all layers are computed for some pairs at once, forwards and
backwards, so that what one operation writes the next one finds in the cache. The values are those of `ActivationUnit`'s layers.

Shapes: B requests, N candidates, H history, R all candidates (B * N), U distinct items of a batch, Q pairs, X an item's vector,
A the first hidden layer.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import embedding_bag, leaky_relu

from rayrec.ranking.gathering import lines_of, positions_by_row

PAIRS_AT_ONCE = 4096  # docs/lab-notes.md compares others

leaky_relu_backward_into = torch.ops.aten.leaky_relu_backward.grad_input


@dataclass(frozen=True)
class ClickPairs:
    """The pairs of each candidate with each click before it, ordered by candidate."""

    shape: tuple[int, int, int]  # B, N, H
    items: int  # U
    place_Q: torch.Tensor  # of each pair in [B, N, H] when that is flattened
    candidate_Q: torch.Tensor  # in R
    item_Q: torch.Tensor  # that was clicked, in U
    start_R: torch.Tensor  # where the pairs of each candidate begin

    @classmethod
    def of(cls, index_BH: torch.Tensor, mask_BH: torch.Tensor, candidates: int, items: int) -> "ClickPairs":
        """Pairs with the clicks `index_BH` (in U), padding left out where `mask_BH` is false."""
        shape = len(mask_BH), candidates, mask_BH.shape[1]
        place_Q = mask_BH[:, None].expand(shape).flatten().nonzero().squeeze(1)
        item_Q = index_BH[:, None].expand(shape).flatten().index_select(0, place_Q)
        candidate_Q = lines_of((shape[0] * shape[1], shape[2]), place_Q.device).index_select(0, place_Q)
        clicks_R = mask_BH.sum(1).repeat_interleave(candidates)
        return cls(shape, items, place_Q, candidate_Q, item_Q, clicks_R.cumsum(0) - clicks_R)

    @cached_property
    def by_item(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The pairs in the order of their items, and where those of each of the items begin."""
        return positions_by_row(self.item_Q, self.items)

    def spread(self, values_Q: torch.Tensor) -> torch.Tensor:
        """The values at their places [B, N, H], zeros at padding."""
        flat = values_Q.new_zeros(self.shape).flatten()
        return flat.index_copy(0, self.place_Q, values_Q).view(self.shape)

    def sum_by_candidate(self, values_QX: torch.Tensor) -> torch.Tensor:
        """The sums over each candidate's pairs [R, X]."""
        return embedding_bag(torch.arange(len(values_QX)), values_QX, self.start_R, mode="sum")

    def sum_by_item(self, values_QX: torch.Tensor) -> torch.Tensor:
        """The sums over each item's pairs [U, X]."""
        order_Q, start_U = self.by_item
        return embedding_bag(order_Q, values_QX, start_U, mode="sum")


def pair_scores(
    pairs: ClickPairs,
    c_RX: torch.Tensor,
    k_UX: torch.Tensor,
    c_RA: torch.Tensor,
    k_UA: torch.Tensor,
    product_AX: torch.Tensor,
    layers: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """The score of each pair [Q]: `layers` over c_RA + k_UA + product_AX (c_RX * k_UX).

    Each of the layers is the slope of a PReLU, and the weight and the bias of the linear map behind it; the last has one output.
    """
    flat = [tensor for layer in layers for tensor in layer]
    scores: torch.Tensor = _PairScores.apply(pairs, c_RX, k_UX, c_RA, k_UA, product_AX, *flat)
    return scores


def pooled_clicks(pairs: ClickPairs, weights_Q: torch.Tensor, k_UX: torch.Tensor) -> torch.Tensor:
    """For each candidate the sum of its clicks' vectors, each times its weight: [R, X]."""
    pooled: torch.Tensor = _PooledClicks.apply(pairs, weights_Q, k_UX)
    return pooled


class _PairScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pairs: ClickPairs, c_RX: Any, k_UX: Any, c_RA: Any, k_UA: Any, product_AX: Any, *layers: torch.Tensor
    ) -> torch.Tensor:
        count, slopes = len(pairs.item_Q), [slope.item() for slope in layers[::3]]
        first_VA = torch.cat([k_UA, c_RA])
        rows_Q2 = torch.stack([pairs.item_Q, pairs.candidate_Q + len(k_UA)], 1)
        # What each activation reads, first that of the first layer, and behind them the scores.
        inputs = [c_RA.new_empty(count, size) for size in (c_RA.shape[1], *(len(bias) for bias in layers[2::3]))]
        for some in _parts(count):
            product = c_RX.index_select(0, pairs.candidate_Q[some]) * k_UX.index_select(0, pairs.item_Q[some])
            first = embedding_bag(rows_Q2[some], first_VA, mode="sum")
            torch.addmm(first, product, product_AX.T, out=inputs[0][some])
            for place, (slope, weight, bias) in enumerate(zip(slopes, layers[1::3], layers[2::3], strict=True)):
                torch.addmm(bias, leaky_relu(inputs[place][some], slope), weight.T, out=inputs[place + 1][some])
        ctx.pairs, ctx.slopes = pairs, slopes
        ctx.save_for_backward(c_RX, k_UX, product_AX, *layers[1::3], *inputs[:-1])
        return inputs[-1].squeeze(1)

    @staticmethod
    def backward(ctx: Any, gradient_Q: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        c_RX, k_UX, product_AX, *saved = ctx.saved_tensors
        pairs, slopes, depth = ctx.pairs, ctx.slopes, len(ctx.slopes)
        weights, inputs = saved[:depth], saved[depth:]
        of_product, of_weights = torch.zeros_like(product_AX), [torch.zeros_like(weight) for weight in weights]
        of_slopes = [c_RX.new_zeros(()) for _ in weights]
        of_c_QX, of_k_QX = (c_RX.new_empty(len(gradient_Q), c_RX.shape[1]) for _ in range(2))
        for some in _parts(len(gradient_Q)):
            gradient = gradient_Q[some, None]
            for place in reversed(range(depth)):
                x = inputs[place][some]
                output = leaky_relu(x, slopes[place])
                of_weights[place].addmm_(gradient.T, output)
                of_output = gradient @ weights[place]
                negative = torch.clamp(x, max=0, out=output)
                of_slopes[place] += torch.dot(of_output.flatten(), negative.flatten())
                # In place of the input, which nothing reads any more.
                gradient = leaky_relu_backward_into(of_output, x, slopes[place], False, grad_input=x)
            c, k = c_RX.index_select(0, pairs.candidate_Q[some]), k_UX.index_select(0, pairs.item_Q[some])
            of_product.addmm_(gradient.T, c * k)
            of_pair = gradient @ product_AX
            torch.mul(of_pair, k, out=of_c_QX[some])
            torch.mul(of_pair, c, out=of_k_QX[some])
        of_biases = [*(of_input.sum(0) for of_input in inputs[1:]), gradient_Q.sum(0, keepdim=True)]
        of_layers = [one for layer in zip(of_slopes, of_weights, of_biases, strict=True) for one in layer]
        by_candidate, by_item = pairs.sum_by_candidate, pairs.sum_by_item
        of_first_QA = inputs[0]
        return (
            None, by_candidate(of_c_QX), by_item(of_k_QX), by_candidate(of_first_QA), by_item(of_first_QA), of_product, *of_layers
        )  # fmt: skip


class _PooledClicks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pairs: ClickPairs, weights_Q: torch.Tensor, k_UX: torch.Tensor) -> torch.Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(weights_Q, k_UX)
        return embedding_bag(pairs.item_Q, k_UX, pairs.start_R, mode="sum", per_sample_weights=weights_Q)

    @staticmethod
    def backward(ctx: Any, gradient_RX: torch.Tensor) -> tuple[None, torch.Tensor, torch.Tensor]:
        weights_Q, k_UX = ctx.saved_tensors
        pairs: ClickPairs = ctx.pairs
        of_weights = k_UX.index_select(0, pairs.item_Q).mul_(gradient_RX.index_select(0, pairs.candidate_Q)).sum(1)
        order_Q, start_U = pairs.by_item
        candidate_Q, weights_Q = pairs.candidate_Q.index_select(0, order_Q), weights_Q.index_select(0, order_Q)
        return None, of_weights, embedding_bag(candidate_Q, gradient_RX, start_U, mode="sum", per_sample_weights=weights_Q)


def _parts(count: int) -> list[slice]:
    return [slice(start, start + PAIRS_AT_ONCE) for start in range(0, count, PAIRS_AT_ONCE)]
