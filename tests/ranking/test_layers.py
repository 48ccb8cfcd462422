"""The layers equal their definitions, written as loops."""

import math
import statistics
from itertools import combinations

import numpy as np
import pytest
import torch

from rayrec.ranking.layers import Dice, Linear, PairAttention, RequestMLP, pairwise_dot_products, value_counts


def test_biases_start_at_zero_and_weights_as_those_of_torch() -> None:
    torch.manual_seed(0)
    ours = Linear(3, 2)
    torch.manual_seed(0)
    torchs = torch.nn.Linear(3, 2)
    assert not ours.bias.any()
    assert torch.equal(ours.weight, torchs.weight)


def test_request_mlp_is_an_mlp_over_the_concatenation() -> None:
    torch.manual_seed(0)
    mlp = RequestMLP(3, 2, [5, 4], dropout=0.0)
    request, candidates = torch.randn(2, 3), torch.randn(2, 6, 2)
    out = mlp(request, candidates)
    for b in range(2):
        for n in range(6):
            first = (
                torch.cat([mlp.request.weight, mlp.candidate.weight], 1) @ torch.cat([request[b], candidates[b, n]])
                + mlp.request.bias
            )
            torch.testing.assert_close(out[b, n], mlp.rest(first)[0])


def test_dice_is_a_leaky_step_where_the_mean_of_each_unit_is() -> None:
    torch.manual_seed(0)
    layer, x = Dice(3).train(), 3 * torch.randn(2, 4, 3) + 1
    torch.nn.init.normal_(layer.slope)

    def expected(mean: list[float], variance: list[float]) -> torch.Tensor:
        out = torch.empty_like(x)
        for place in np.ndindex(*x.shape):
            s, unit = x[place].item(), place[-1]
            p = 1 / (1 + math.exp(-(s - mean[unit]) / math.sqrt(variance[unit] + 1e-8)))
            out[place] = p * s + (1 - p) * layer.slope[unit].item() * s
        return out

    units = [column.tolist() for column in x.flatten(0, 1).T]
    means = [statistics.fmean(unit) for unit in units]
    torch.testing.assert_close(layer(x), expected(means, [statistics.pvariance(unit) for unit in units]))
    moving = [0.1 * mean for mean in means], [0.9 + 0.1 * statistics.variance(unit) for unit in units]
    torch.testing.assert_close(layer.eval()(x), expected(*moving))
    alone = x[:1, :1]
    torch.testing.assert_close(layer.train()(alone), layer.eval()(alone))


def test_dot_products_are_those_of_all_pairs() -> None:
    torch.manual_seed(0)
    request, candidates = torch.randn(2, 3, 4), torch.randn(2, 5, 2, 4)
    out = pairwise_dot_products(request, candidates)
    for b in range(2):
        for n in range(5):
            fields = [*request[b], *candidates[b, n]]
            torch.testing.assert_close(out[b, n], sum(one @ other for one, other in combinations(fields, 2)))


def test_derivatives_of_dot_products_are_those_of_the_sum() -> None:
    torch.manual_seed(0)
    fields = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 5, 2, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(pairwise_dot_products, [one.requires_grad_() for one in fields])


@pytest.mark.parametrize(("request_fields", "candidate_fields"), [(3, 2), (1, 1)])
def test_pair_attention_pools_all_pairs(request_fields: int, candidate_fields: int) -> None:
    torch.manual_seed(0)
    attention = PairAttention(4, 5, dropout=0.0)
    request, candidates = torch.randn(2, request_fields, 4), torch.randn(2, 3, candidate_fields, 4)
    out = attention(request, candidates)
    for b in range(2):
        for n in range(3):
            products = [one * other for one, other in combinations([*request[b], *candidates[b, n]], 2)]
            powers = [attention.score(product).exp() for product in products]
            pooled = sum(power * product for power, product in zip(powers, products, strict=True)) / sum(powers)
            torch.testing.assert_close(out[b, n], pooled)


def test_value_counts_leave_padding_out() -> None:
    assert value_counts(torch.tensor([[1, 1, 0], [0, 2, 0]]), 3).tolist() == [[0, 2, 0], [0, 0, 1]]
