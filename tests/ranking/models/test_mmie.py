"""The logits of `mmie` equal its formulas, computed one candidate and one step at a time."""

import math
from itertools import pairwise

import pytest
import torch

from rayrec.config import Ranker
from rayrec.data.loading import RankingData
from tests.ranking.impressions import dot, linear, request_mlp, requests, softmax, taken_apart, untrained
from tests.ranking.test_sequences import gru_step


@pytest.mark.parametrize("fusion", ["concat", "user_attention"])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, fusion: str) -> None:
    settings = settings.model_copy(update={"history_connection": "both", "fusion": fusion})
    model = untrained("mmie", data, settings, spread=0.3, size=4).model.eval()
    batch = requests(data, settings, 3)
    logits = model(batch)
    for index, impression in taken_apart(model.inputs, batch):
        state, states = [0.0] * 4, []
        for click in impression.clicked:
            state = gru_step(model.extractor, linear(model.click, click), state, 1.0)
            states.append(state)
        guide = linear(model.attention.linear, impression.candidate)
        interest = [0.0] * 4
        for state, weight in zip(states, softmax([dot(state, guide) for state in states]), strict=True):
            interest = gru_step(model.evolution, state, interest, weight)
        expected = request_mlp(model.mlp.mlp, impression.request, impression.candidate + interest)
        expected += dot(model.mlp.top.linear.weight[0].tolist(), interest)
        assert logits[index].item() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_auxiliary_loss_is_that_of_the_next_clicks(
    data: RankingData, settings: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = requests(data, settings, 2)
    model = untrained("mmie", data, settings.model_copy(update={"id_dropout": 0, "dropout": 0}), 0.3, size=4, auxiliary=0.5).model
    model.auxiliary = 0
    without = model.losses(batch)
    model.auxiliary = 0.5
    monkeypatch.setattr(torch, "randint_like", lambda indices, most: torch.zeros_like(indices))  # each negative is the first video
    losses = model.losses(batch)
    negative = linear(model.click, model.inputs(batch).items_UE[0].tolist())
    for (b, n), impression in taken_apart(model.inputs, batch):
        if n:
            continue
        clicks = [linear(model.click, click) for click in impression.clicked]
        state, steps = [0.0] * 4, []
        for click, following in pairwise(clicks):
            state = gru_step(model.extractor, click, state, 1.0)
            steps.append(math.log1p(math.exp(-dot(state, following))) + math.log1p(math.exp(dot(state, negative))))
        expected = 0.5 * sum(steps) / max(len(steps), 1)
        assert (losses[b] - without[b]).item() == pytest.approx(expected, abs=1e-4)
