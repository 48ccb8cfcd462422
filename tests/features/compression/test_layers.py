"""Pruned and shared layers: which weights stay, gradients of shared values, and multiply-adds that one can count by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rayrec.features.compression.fitting import share
from rayrec.features.compression.layers import layers_of, mask_of, multiply_adds, prune, settle


def test_the_largest_weights_stay() -> None:
    weights = torch.tensor([[0.1, -3.0, 0.0], [2.0, -0.2, 0.3]])
    assert mask_of(weights, 0.5).tolist() == [[0, 1, 0], [1, 0, 1]]
    assert mask_of(weights, 0.01).tolist() == [[0, 1, 0], [0, 0, 0]]
    assert mask_of(weights, 1.0).sum() == 6
    assert mask_of(torch.ones(8), 0.5).tolist() == [1, 1, 1, 1, 0, 0, 0, 0]  # of equal ones, as many as asked for


def test_pruned_weights_stay_zero_while_the_others_learn() -> None:
    torch.manual_seed(1)
    layer = nn.Conv2d(3, 8, 3)
    before = layer.weight.detach().clone()
    prune(layer, 0.25)
    pruned = layer.weight == 0
    assert pruned.sum() == 162
    assert (before.abs()[pruned].max() <= before.abs()[~pruned].min()).item()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    assert torch.equal(layer.weight == 0, pruned)
    assert not torch.allclose(layer.weight[~pruned], before[~pruned], atol=0.05)
    expected = layer.weight.detach().clone()
    settle(layer)
    assert torch.equal(layer.weight, expected)
    assert dict(layer.named_parameters()).keys() == {"weight", "bias"}


def test_shared_weights_are_the_nearest_values_and_add_up_their_gradients() -> None:
    layer = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.2, 0.0, -2.0], [0.0, -2.2, 1.1, 0.9]]))
    share(layer, 2, 0.0)
    values = torch.tensor([-2.1, 1.05])
    expected = torch.stack([values[[1, 1, 0, 0]], values[[0, 0, 1, 1]]])
    expected[0, 2] = expected[1, 0] = 0
    assert torch.allclose(layer.weight, expected)
    inputs = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    layer(inputs).sum().backward()
    shared: Any = layer.parametrizations
    assert shared["weight"][0].codebook.grad.tolist() == [4.0 + 2.0, 1.0 + 2.0 + 3.0 + 4.0]
    assert shared["weight"].original.grad.tolist() == [inputs[0].tolist()] * 2  # and the weights behind learn what theirs should


def test_a_weight_takes_another_value_when_the_one_behind_it_has_moved() -> None:
    layer = nn.Linear(3, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.0, -1.0]])
    share(layer, 2, 0.0)
    shared: Any = layer.parametrizations
    with torch.no_grad():
        shared["weight"].original.copy_(torch.tensor([[0.4, -0.6, 0.6]]))
        shared["weight"][0].codebook.copy_(torch.tensor([1.1, -1.0]))  # in whatever order
    assert layer.weight.tolist() == [[0, -1, pytest.approx(1.1)]]


def test_layers_with_one_value_or_none() -> None:
    for weights in (np.zeros((2, 3)), np.full((2, 3), 0.5)):
        layer = nn.Linear(3, 2)
        layer.weight.data = torch.tensor(weights, dtype=torch.float32)
        share(layer, 16, 0.0)
        assert torch.equal(layer.weight, torch.tensor(weights, dtype=torch.float32))


def test_multiply_adds() -> None:
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Flatten(), nn.LazyLinear(10))
    with torch.no_grad():
        body(torch.zeros(1, 3, 9, 9))
    found = multiply_adds(body, lambda: body(torch.zeros(1, 3, 9, 9)))
    assert found == {"0": 9 * 9 * 8 * 27, "1": 4 * 4 * 8 * 9, "3": 8 * 16 * 10}
    assert list(layers_of(body)) == ["0", "1", "3"]
