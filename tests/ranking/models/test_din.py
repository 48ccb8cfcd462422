"""The logits of `din` equal its formula, computed one candidate and one click at a time."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from rayrec.config import Ranker
from rayrec.data.loading import RankingData
from rayrec.ranking.layers import Dice
from rayrec.ranking.sequences import PReLU
from tests.ranking.impressions import dot, linear, requests, softmax, taken_apart, untrained


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def activated(layer: nn.Module, vector: list[float]) -> list[float]:
    if isinstance(layer, PReLU):
        return [z if z > 0 else layer.slope.item() * z for z in vector]
    if isinstance(layer, Dice):
        scaled = zip(vector, layer.norm.running_mean.tolist(), layer.norm.running_var.tolist(), strict=True)
        shares = [sigmoid((z - mean) / math.sqrt(variance + 1e-8)) for z, mean, variance in scaled]
        return [(p + (1 - p) * slope) * z for p, z, slope in zip(shares, vector, layer.slope.tolist(), strict=True)]
    return [sigmoid(z) if isinstance(layer, nn.Sigmoid) else max(z, 0.0) for z in vector]


def network(layers: nn.Sequential, vector: list[float]) -> float:
    """The only output of layers that follow on one another."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            vector = linear(layer, vector)
        elif not isinstance(layer, nn.Dropout):
            vector = activated(layer, vector)
    return vector[0]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"activation": "sigmoid", "normalise": True, "attention": [7], "size": None},
    {"activation": "dice", "attention": [7, 3]},
]


@pytest.mark.parametrize("fusion", ["concat", "user_attention"])
@pytest.mark.parametrize("options", OPTIONS)
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, fusion: str, options: dict[str, Any]) -> None:
    settings = settings.model_copy(update={"history_connection": "both", "fusion": fusion})
    model = untrained("din", data, settings, spread=0.3, **options).model.eval()
    for dice in (module for module in model.modules() if isinstance(module, Dice)):
        nn.init.normal_(dice.norm.running_mean)
        nn.init.uniform_(dice.norm.running_var, 0.5, 2)
    batch = requests(data, settings, 3)
    logits = model(batch)
    unit, size, mlp = model.unit, model.unit.click.in_features, model.mlp.mlp

    def projected(vector: list[float]) -> list[float]:
        return [dot(row, vector) for row in model.project.weight.tolist()] if "size" not in options else vector

    # The paper's first layer, over [c, k, c - k, c * k]: any weights of the difference will do.
    difference = torch.randn_like(unit.click.weight)
    first = nn.Linear(4 * size, unit.click.out_features)
    parts = [unit.candidate.weight - difference, unit.click.weight + difference, difference, unit.product.weight]
    first.weight, first.bias = nn.Parameter(torch.cat(parts, 1)), unit.candidate.bias

    def weight(c: list[float], k: list[float]) -> float:
        vector = [*c, *k, *(a - b for a, b in zip(c, k, strict=True)), *(a * b for a, b in zip(c, k, strict=True))]
        return network(nn.Sequential(first, *unit.rest), vector)

    for index, impression in taken_apart(model.inputs, batch):
        clicked = [projected(click) for click in impression.clicked]
        weights = [weight(projected(impression.candidate), click) for click in clicked]
        weights = softmax(weights) if options.get("normalise") else weights
        interest = [sum(w * click[e] for w, click in zip(weights, clicked, strict=True)) for e in range(size)]
        of_candidate = linear(mlp.candidate, impression.candidate + interest)
        hidden = [a + b for a, b in zip(linear(mlp.request, impression.request), of_candidate, strict=True)]
        expected = network(mlp.rest, hidden) + dot(model.mlp.top.linear.weight[0].tolist(), interest)
        assert logits[index].item() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_statistics_of_dice_are_those_of_the_clicks_that_are_there(data: RankingData, settings: Ranker) -> None:
    """However much padding stands in front, and none at all where nobody has clicked."""
    settings = settings.model_copy(update={"id_dropout": 0, "dropout": 0})
    model = untrained("din", data, settings, spread=0.3, activation="dice").model.train()
    batch, seen = requests(data, settings, 3), []
    model.unit.rest[0].register_forward_hook(lambda module, rows, output: seen.append(rows[0]))
    padding = torch.zeros(5, 4, dtype=torch.int64)
    wider = replace(batch, history=torch.cat([padding, batch.history], 1), history_at=torch.cat([padding, batch.history_at], 1))
    torch.testing.assert_close(model(wider), model(batch))
    assert len(seen[0]) == len(seen[1]) == int((batch.history > 0).sum()) * 3
    assert model(replace(batch, history=torch.zeros_like(batch.history))).isfinite().all()
