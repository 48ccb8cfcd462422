"""The logits of `afm` equal its formula, computed one pair of fields at a time."""

from itertools import combinations

import pytest

from rayrec.config import Ranker
from rayrec.data.loading import RankingData
from tests.ranking.impressions import dot, linear, relu, requests, softmax, split, taken_apart, untrained


def test_logits_equal_the_formula(data: RankingData, settings: Ranker) -> None:
    settings = settings.model_copy(update={"history_connection": "both"})
    model = untrained("afm", data, settings, spread=0.5, attention_size=3).model.eval()
    batch = requests(data, settings, 3)
    logits = model(batch)
    hidden, _, last = model.attention.score
    for index, impression in taken_apart(model.inputs, batch):
        fields = split(impression.request + impression.mean + impression.candidate, 4)
        products = [[a * b for a, b in zip(one, other, strict=True)] for one, other in combinations(fields, 2)]
        shares = softmax([linear(last, relu(linear(hidden, product)))[0] for product in products])
        pooled = [sum(share * product[k] for share, product in zip(shares, products, strict=True)) for k in range(4)]
        expected = impression.weights + linear(model.output, pooled)[0]
        expected += dot(model.clicked.top.linear.weight[0].tolist(), impression.mean)
        assert logits[index].item() == pytest.approx(expected, abs=1e-4)
