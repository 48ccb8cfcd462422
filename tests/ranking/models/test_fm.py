"""The logits of `fm` equal its formula, computed one pair of numbers at a time."""

from itertools import combinations

import pytest

from rayrec.config import Ranker
from rayrec.data.loading import RankingData
from tests.ranking.impressions import dot, requests, split, taken_apart, untrained


@pytest.mark.parametrize("connection", ["input", "both", "top"])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, connection: str) -> None:
    settings = settings.model_copy(update={"history_connection": connection})
    model = untrained("fm", data, settings, spread=0.3).model.eval()
    batch = requests(data, settings, 3)
    logits = model(batch)
    for index, impression in taken_apart(model.inputs, batch):
        mean = impression.mean if connection != "top" else []
        fields = [part for fields in (impression.request, mean, impression.candidate) for part in split(fields, 4)]
        expected = model.bias.item() + impression.weights
        for one, other in combinations(fields, 2):
            expected += dot(one, other)
        if connection != "input":
            expected += dot(model.clicked.top.linear.weight[0].tolist(), impression.mean)
        assert logits[index].item() == pytest.approx(expected, abs=1e-4)
