"""The logits of `din` equal its formula, computed one candidate and one click at a time."""

import math
from typing import Any

import pytest
import torch

from rayrec.config import Ranker
from rayrec.data.loading import RankingData
from tests.ranking.impressions import dot, request_mlp, requests, softmax, taken_apart, untrained


@pytest.mark.parametrize("fusion", ["concat", "user_attention"])
@pytest.mark.parametrize("options", [{}, {"activation": "sigmoid", "normalise": True, "attention": [7], "size": None}])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, fusion: str, options: dict[str, Any]) -> None:
    settings = settings.model_copy(update={"history_connection": "both", "fusion": fusion})
    model = untrained("din", data, settings, spread=0.3, **options).model.eval()
    batch = requests(data, settings, 3)
    logits = model(batch)
    unit, size = model.unit, model.unit.click.in_features

    def projected(vector: list[float]) -> list[float]:
        return [dot(row, vector) for row in model.project.weight.tolist()] if "size" not in options else vector

    # The paper's first layer, over [c, k, c - k, c * k]: any weights of the difference will do.
    difference = torch.randn_like(unit.click.weight)
    parts = [unit.candidate.weight - difference, unit.click.weight + difference, difference, unit.product.weight]
    layers = [(torch.cat(parts, 1), unit.candidate.bias), *((layer.weight, layer.bias) for layer in unit.rest[1::2])]
    slopes = [getattr(layer, "slope", None) for layer in unit.rest[::2]]

    def weight(c: list[float], k: list[float]) -> float:
        vector = [*c, *k, *(a - b for a, b in zip(c, k, strict=True)), *(a * b for a, b in zip(c, k, strict=True))]
        for number, (rows, bias) in enumerate(layers):
            vector = [dot(row, vector) + shift for row, shift in zip(rows.tolist(), bias.tolist(), strict=True)]
            if number < len(slopes):
                slope = slopes[number]
                vector = [1 / (1 + math.exp(-z)) if slope is None else z if z > 0 else slope.item() * z for z in vector]
        return vector[0]

    for index, impression in taken_apart(model.inputs, batch):
        clicked = [projected(click) for click in impression.clicked]
        weights = [weight(projected(impression.candidate), click) for click in clicked]
        weights = softmax(weights) if options.get("normalise") else weights
        interest = [sum(w * click[e] for w, click in zip(weights, clicked, strict=True)) for e in range(size)]
        expected = request_mlp(model.mlp.mlp, impression.request, impression.candidate + interest)
        expected += dot(model.mlp.top.linear.weight[0].tolist(), interest)
        assert logits[index].item() == pytest.approx(expected, rel=1e-3, abs=1e-4)
