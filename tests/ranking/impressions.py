"""Makes batches for the tests of models, and takes batches apart into plain numbers, for reference formulas in loops."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rayrec.config import Ranker
from rayrec.data.batches import Batch
from rayrec.data.loading import RankingData
from rayrec.ranking.embedding import Inputs
from rayrec.ranking.layers import RequestMLP
from rayrec.ranking.scorer import Scorer
from tests.fixtures.ranking import with_model

HOUR_MS = 3_600_000


def untrained(name: str, data: RankingData, settings: Ranker, spread: float = 0.0, **options: Any) -> Scorer:
    """An untrained scorer. With a `spread`, all weights are random, because some models start with weights of zero."""
    torch.manual_seed(0)
    scorer = Scorer.untrained(with_model(settings, name, **options), data)
    for parameter in scorer.model.parameters() if spread else ():
        nn.init.normal_(parameter, std=spread)
    return scorer


def requests(data: RankingData, settings: Ranker, candidates: int) -> Batch:
    """Histories that are full, have a gap, have one click or none; an unknown user; unknown videos among the candidates."""
    rng, length, items = np.random.default_rng(2), settings.history_length, len(data.items.ids)
    filled = torch.arange(length) >= torch.tensor([0, 0, length - 1, length, 2])[:, None]
    hidden = torch.zeros(5, length, dtype=torch.bool)
    hidden[1, 2] = True
    shown = torch.from_numpy(rng.integers(1, items, (5, candidates)))
    shown[:2, -1] = 0
    return Batch(
        user=torch.tensor([1, 2, 3, 4, 0]),
        at=torch.full((5,), length * HOUR_MS),
        history=torch.from_numpy(rng.integers(1, items, (5, length))) * (filled & ~hidden),
        history_at=torch.arange(length) * HOUR_MS * filled,
        context=torch.from_numpy(rng.integers(0, list(data.context_encoder.sizes.values()), (5, len(data.context_encoder.fields)))),
        candidates=shown,
        labels=torch.from_numpy(rng.integers(0, 2, (5, candidates))).float(),
    )


@dataclass
class Impression:
    request: list[float]  # the fields of user and context, concatenated
    clicked: list[list[float]]  # of each clicked video its fields
    mean: list[float]  # of them; zeros without clicks
    candidate: list[float]
    weights: float  # the sum of the weights of the fields of request and candidate


def taken_apart(inputs: Inputs, batch: Batch) -> Iterator[tuple[tuple[int, int], Impression]]:
    """Each (b, n) of a batch with its impression, embedded by `inputs`, which other tests check."""
    x = inputs(batch)
    for b, n in np.ndindex(*batch.candidates.shape):
        clicked = [x.clicked_BHE[b, h].tolist() for h, row in enumerate(batch.history[b]) if row]
        mean = [sum(column) / len(clicked) for column in zip(*clicked, strict=True)] or [0.0] * inputs.item_size
        yield (b, n), Impression(x.request_BR[b].tolist(), clicked, mean, x.candidates_BNE[b, n].tolist(), x.linear_BN[b, n].item())


def split(fields: list[float], dim: int) -> list[list[float]]:
    return [fields[start : start + dim] for start in range(0, len(fields), dim)]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def relu(vector: list[float]) -> list[float]:
    return [max(value, 0.0) for value in vector]


def softmax(scores: list[float]) -> list[float]:
    powers = np.exp(scores).tolist()
    return [power / sum(powers) for power in powers]


def linear(layer: nn.Linear, vector: list[float]) -> list[float]:
    bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [dot(row, vector) + shift for row, shift in zip(layer.weight.tolist(), bias, strict=True)]


def mlp(layers: nn.Sequential, vector: list[float]) -> float:
    """An MLP whose last layer gives one logit."""
    *hidden, last = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for layer in hidden:
        vector = relu(linear(layer, vector))
    return linear(last, vector)[0]


def request_mlp(network: RequestMLP, request: list[float], candidate: list[float]) -> float:
    first = [a + b for a, b in zip(linear(network.request, request), linear(network.candidate, candidate), strict=True)]
    return mlp(network.rest, relu(first))
