"""The logits of `acf` equal its formula, computed one clicked video and one modality at a time."""

import pytest

from rayrec.config import Ranker
from rayrec.data.loading import RankingData
from rayrec.ranking.models.acf import Attention
from tests.ranking.impressions import dot, linear, relu, requests, softmax, split, taken_apart, untrained


def shares_of(attention: Attention, user: list[float], seen: list[list[float]]) -> list[float]:
    of_user = linear(attention.user, user)
    hidden = [[a + b for a, b in zip(of_user, linear(attention.seen, one), strict=True)] for one in seen]
    return softmax([linear(attention.score, relu(one))[0] for one in hidden])


def weighted(shares: list[float], vectors: list[list[float]]) -> list[float]:
    return [sum(share * vector[k] for share, vector in zip(shares, vectors, strict=True)) for k in range(4)]


@pytest.mark.parametrize("connection", ["input", "both", "top"])
@pytest.mark.parametrize("modalities", [2, 0])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, connection: str, modalities: int) -> None:
    settings = settings.model_copy(update={"history_connection": connection, "fusion": "attention"})
    if not modalities:
        data.items.vectors.clear()
    model = untrained("acf", data, settings, spread=0.4, attention_size=3).model.eval()
    batch = requests(data, settings, 3)
    logits = model(batch)
    indices = [index for index, field in enumerate(model.inputs.item_fields) if field in ("audio", "cover")]
    assert len(indices) == modalities
    for index, impression in taken_apart(model.inputs, batch):
        user, vector = linear(model.user, impression.request), linear(model.item, impression.candidate)[:4]
        seen, auxiliary = [], []
        for clicked in impression.clicked:
            basic, further = split(linear(model.item, clicked), 4)
            content = []
            if modalities:
                there = [part for part in (split(clicked, 4)[index] for index in indices) if any(part)]
                content = weighted(shares_of(model.of_components, user, there), there) if there else [0.0] * 4
            seen.append(basic + further + content)
            auxiliary.append(further)
        interest = weighted(shares_of(model.of_clicks, user, seen), auxiliary) if seen else [0.0] * 4
        taste = [a + b for a, b in zip(user, interest, strict=True)] if connection != "top" else user
        expected = model.bias.item() + impression.weights + dot(taste, vector)
        if connection != "input":
            expected += linear(model.top.linear, interest)[0]
        assert logits[index].item() == pytest.approx(expected, abs=1e-4)
