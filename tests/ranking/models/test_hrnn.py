"""The logits of `hrnn` equal its formulas, computed one session and one click at a time."""

import math

import pytest
import torch

from rayrec.config import Ranker
from rayrec.data.batches import Batch
from rayrec.data.loading import RankingData
from tests.ranking.impressions import HOUR_MS, dot, linear, request_mlp, requests, softmax, taken_apart, untrained
from tests.ranking.test_sequences import sessions_of, torch_gru_step


@pytest.mark.parametrize("pooling", ["last", "attention"])
@pytest.mark.parametrize("late", [False, True])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, late: bool, pooling: str) -> None:
    settings = settings.model_copy(update={"history_connection": "both", "fusion": "user_attention", "history_length": 9})
    options = {"size": 4, "sessions": 2, "session_length": 3, "pooling": pooling}
    model = untrained("hrnn", data, settings, spread=0.4, **options).model.eval()
    batch = requests(data, settings, 3)
    gaps = torch.tensor([0.0, 2.0, 0.1, 0.1, 1.0, 0.2, 0.2, 0.2, 0.2])  # hours before each click: sessions of 1, 3 and 5
    times = (gaps.cumsum(0) * HOUR_MS).long()
    at = times[-1] + (HOUR_MS if late else HOUR_MS // 3)
    batch = Batch(batch.user, at.expand(5), batch.history, times * (batch.history > 0), batch.context, batch.candidates)
    logits = model(batch)

    def begin(user: list[float]) -> list[float]:
        return [math.tanh(value) for value in linear(model.begin[0], user)]

    for (b, n), impression in taken_apart(model.inputs, batch):
        clicked_at = [time for time, item in zip(batch.history_at[b].tolist(), batch.history[b].tolist(), strict=True) if item]
        user = [0.0] * 4
        states, state = [], begin(user)
        for session in sessions_of(clicked_at, 30)[-2:]:
            state = begin(user)
            for h in session[-3:]:
                state = torch_gru_step(model.within, linear(model.click, impression.clicked[h]), state)
            states.append(state)
            user = torch_gru_step(model.across, state, user)
        history = begin(user) if late or not clicked_at else state
        if pooling == "attention":
            guide = linear(model.attention.linear, impression.candidate)
            weights = softmax([dot(one, guide) for one in states])
            history = [dot(weights, list(column)) for column in zip(*states, strict=True)] or [0.0] * 4
        expected = request_mlp(model.mlp.mlp, impression.request, impression.candidate + history)
        expected += dot(model.mlp.top.linear.weight[0].tolist(), history)
        assert logits[b, n].item() == pytest.approx(expected, rel=1e-3, abs=1e-4)
