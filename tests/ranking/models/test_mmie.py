"""The logits of `mmie` equal its formulas, computed one candidate and one step at a time."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from rayrec.config import Ranker
from rayrec.data.loading import RankingData
from rayrec.ranking.models import mmie
from rayrec.ranking.models.mmie import draw_others
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
    chosen: list[torch.Tensor] = []

    def drawn(index: torch.Tensor, first: int, end: int) -> torch.Tensor:
        chosen.append(draw_others(index, first, end))
        return chosen[-1]

    monkeypatch.setattr(mmie, "draw_others", drawn)
    losses = model.losses(batch)
    x = model.inputs(batch)
    rows = torch.cat([batch.candidates, batch.history], 1).unique()  # of the items, in the order of `items_UE`
    assert rows[0] == 0  # "no item" is among them
    for (b, n), impression in taken_apart(model.inputs, batch):
        if n:
            continue
        clicks, videos = (
            [linear(model.click, click) for click in impression.clicked],
            [row for row in batch.history[b].tolist() if row],
        )
        others = rows[chosen[0][b]].tolist()
        state, steps = [0.0] * 4, []
        for place, (click, following) in enumerate(pairwise(clicks), start=1):
            assert others[place] not in (0, videos[place])
            negative = linear(model.click, x.items_UE[chosen[0][b, place]].tolist())
            state = gru_step(model.extractor, click, state, 1.0)
            steps.append(math.log1p(math.exp(-dot(state, following))) + math.log1p(math.exp(dot(state, negative))))
        expected = 0.5 * sum(steps) / max(len(steps), 1)
        assert (losses[b] - without[b]).item() == pytest.approx(expected, abs=1e-4)


def test_a_negative_is_any_other_video_and_never_padding() -> None:
    torch.manual_seed(0)
    index = torch.tensor([1, 2, 4]).repeat(6000, 1)
    counts = torch.stack([torch.bincount(column, minlength=5) for column in draw_others(index, 1, 5).T])
    assert (counts[[0, 0, 1, 1, 2, 2], [0, 1, 0, 2, 0, 4]] == 0).all()
    assert torch.allclose(counts[counts > 0] / 6000, torch.tensor(1 / 3), atol=0.03)


def test_a_batch_of_a_single_video_has_no_auxiliary_loss(data: RankingData, settings: Ranker) -> None:
    batch = requests(data, settings, 1)
    one = replace(batch, history=(batch.history > 0).long(), candidates=torch.ones_like(batch.candidates))
    losses = [untrained("mmie", data, settings, 0.3, auxiliary=weight).model.eval().losses(one).tolist() for weight in (0, 1)]
    assert losses[0] == losses[1]
