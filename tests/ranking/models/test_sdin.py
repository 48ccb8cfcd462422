"""The logits of `sdin` equal its formulas, computed one session, one head and one click at a time."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from rayrec.config import ConfigError, Ranker
from rayrec.data.batches import Batch
from rayrec.data.loading import RankingData
from rayrec.ranking.models.sdin import SessionInterest
from tests.ranking.impressions import HOUR_MS, dot, linear, relu, request_mlp, requests, softmax, taken_apart, untrained
from tests.ranking.test_sequences import sessions_of, sigmoid, torch_gru_step

Vector = list[float]


def added(one: Vector, other: Vector) -> Vector:
    return [a + b for a, b in zip(one, other, strict=True)]


def weighed(weights: Vector, vectors: list[Vector]) -> Vector:
    return [sum(w * v for w, v in zip(weights, column, strict=True)) for column in zip(*vectors, strict=True)]


def normed(layer: nn.LayerNorm, vector: Vector) -> Vector:
    mean = sum(vector) / len(vector)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in vector) / len(vector) + layer.eps)
    return [(v - mean) / deviation * w + b for v, w, b in zip(vector, layer.weight.tolist(), layer.bias.tolist(), strict=True)]


def interest_of(layer: SessionInterest, clicks: list[Vector], session: int) -> Vector:
    """I of the session's projected clicks, the newest first."""
    size = len(clicks[0])
    bias = layer.session_bias[session].item()
    clicks = [
        [click[c] + bias + layer.position_bias[t].item() + layer.unit_bias[c].item() for c in range(size)]
        for t, click in enumerate(clicks)
    ]
    queries, keys, values = ([linear(layer.attention, click)[part * size :][:size] for click in clicks] for part in range(3))
    width, outputs = size // layer.heads, []
    for query, click in zip(queries, clicks, strict=True):
        mixed: Vector = []
        for first in range(0, size, width):
            head = slice(first, first + width)
            weights = softmax([dot(query[head], key[head]) / math.sqrt(width) for key in keys])
            mixed += weighed(weights, [value[head] for value in values])
        attended = normed(layer.norms[0], added(click, linear(layer.heads_out, mixed)))
        inner, outer = layer.feed_forward[0], layer.feed_forward[2]
        outputs.append(normed(layer.norms[1], added(attended, linear(outer, relu(linear(inner, attended))))))
    return [sum(column) / len(column) for column in zip(*outputs, strict=True)]


def lstm(weights: list[torch.Tensor], sequence: list[Vector]) -> list[Vector]:
    size = weights[1].shape[1]
    state, cell, states = [0.0] * size, [0.0] * size, []
    for step in sequence:
        gates = [
            dot(of_input, step) + dot(of_state, state) + b_in + b_state
            for of_input, of_state, b_in, b_state in zip(*(weight.tolist() for weight in weights), strict=True)
        ]
        take, keep, new, show = (gates[start : start + size] for start in range(0, 4 * size, size))
        cell = [sigmoid(k) * c + sigmoid(t) * math.tanh(n) for k, c, t, n in zip(keep, cell, take, new, strict=True)]
        state = [sigmoid(s) * math.tanh(c) for s, c in zip(show, cell, strict=True)]
        states.append(state)
    return states


def gru(weights: list[torch.Tensor], sequence: list[Vector]) -> list[Vector]:
    cell = nn.GRUCell(weights[0].shape[1], weights[1].shape[1])
    for parameter, weight in zip(cell.parameters(), weights, strict=True):
        parameter.data = weight
    state, states = [0.0] * weights[1].shape[1], []
    for step in sequence:
        state = torch_gru_step(cell, step, state)
        states.append(state)
    return states


@pytest.mark.parametrize("fusion", ["concat", "user_attention"])
@pytest.mark.parametrize("options", [{}, {"rnn": "gru", "pooling": "mean"}, {"intra": False}, {"inter": False}])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, fusion: str, options: dict[str, Any]) -> None:
    settings = settings.model_copy(update={"history_connection": "both", "fusion": fusion, "history_length": 9})
    model = untrained("sdin", data, settings, spread=0.4, size=4, sessions=2, session_length=3, **options).model.eval()
    batch = requests(data, settings, 2)
    gaps = torch.tensor([0.0, 2.0, 0.1, 0.1, 1.0, 0.2, 0.2, 0.2, 0.2])  # hours before each click: sessions of 1, 3 and 5
    times = (gaps.cumsum(0) * HOUR_MS).long() * (batch.history > 0)
    batch = Batch(batch.user, batch.at, batch.history, times, batch.context, batch.candidates)
    logits, run = model(batch), gru if options.get("rnn") else lstm
    for (b, n), impression in taken_apart(model.inputs, batch):
        clicked_at = [time for time, item in zip(times[b].tolist(), batch.history[b].tolist(), strict=True) if item]
        intra = []
        for number, session in enumerate(sessions_of(clicked_at, 30)[::-1][:2]):
            clicks = [linear(model.click, impression.clicked[h]) for h in session[::-1][:3]]
            intra.append(interest_of(model.session, clicks, number))
        states = [intra] if model.options.intra else []
        if model.options.inter:
            weights = list(model.between.parameters())
            there, back = run(weights[:4], intra), run(weights[4:], intra[::-1])[::-1]
            states.append([one + other for one, other in zip(there, back, strict=True)])
        interest: Vector = []
        for number, (vectors, size) in enumerate(zip(states, [4, 8] if model.options.intra else [8], strict=False)):
            shares = [1 / len(vectors)] * len(vectors) if vectors else []
            if model.options.pooling == "attention":
                guide = linear(model.attentions[number].linear, impression.candidate)
                shares = softmax([dot(vector, guide) for vector in vectors])
            interest += weighed(shares, vectors) or [0.0] * size
        expected = request_mlp(model.mlp.mlp, impression.request, impression.candidate + interest)
        expected += dot(model.mlp.top.linear.weight[0].tolist(), interest)
        assert logits[b, n].item() == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("options", [{"size": 32, "heads": 3}, {"intra": False, "inter": False}])
def test_options_that_contradict_one_another_are_refused(data: RankingData, settings: Ranker, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"multiple of heads|see no history"):
        untrained("sdin", data, settings, **options)
