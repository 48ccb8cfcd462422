"""The logits of `mhsa_ac` equal its formula, computed one field of one head at a time."""

from itertools import combinations

import pytest

from rayrec.config import Ranker
from rayrec.data.loading import RankingData
from rayrec.ranking.layers import PairAttention
from tests.ranking.impressions import dot, linear, mlp, relu, requests, softmax, split, taken_apart, untrained

HEADS, SIZE = 2, 3


def self_attention(weight: list[list[float]], fields: list[list[float]]) -> list[list[float]]:
    """AutoInt, eq. 5-8. Rows of the weight: W_query, W_key, W_value of each head, then W_res."""
    width = HEADS * SIZE

    def projected(kind: int, head: int, field: list[float]) -> list[float]:
        start = kind * width + head * SIZE
        return [dot(row, field) for row in weight[start : start + SIZE]]

    out = []
    for field in fields:
        heads = []
        for head in range(HEADS):
            query = projected(0, head, field)
            shares = softmax([dot(query, projected(1, head, other)) for other in fields])
            values = [projected(2, head, other) for other in fields]
            heads += [sum(share * value[k] for share, value in zip(shares, values, strict=True)) for k in range(SIZE)]
        residual = [dot(row, field) for row in weight[3 * width :]]
        out.append(relu([a + b for a, b in zip(heads, residual, strict=True)]))
    return out


def crosses_of(layer: PairAttention, fields: list[list[float]]) -> list[float]:
    """AFM, eq. 4-5."""
    products = [[a * b for a, b in zip(one, other, strict=True)] for one, other in combinations(fields, 2)]
    hidden, _, last = layer.score
    shares = softmax([linear(last, relu(linear(hidden, product)))[0] for product in products])
    return [sum(share * product[k] for share, product in zip(shares, products, strict=True)) for k in range(4)]


@pytest.mark.parametrize(("layers", "deep", "crosses"), [(1, True, True), (2, False, True), (2, True, False), (1, False, False)])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, layers: int, deep: bool, crosses: bool) -> None:
    settings = settings.model_copy(update={"history_connection": "both", "item_fields": ["tags"]})
    options = {"heads": HEADS, "layers": layers, "attention_size": SIZE, "deep": deep, "crosses": crosses}
    model = untrained("mhsa_ac", data, settings, spread=0.4, **options).model.eval()
    assert (model.mlp is not None) == deep
    batch = requests(data, settings, 2)
    logits = model(batch)
    for index, impression in taken_apart(model.inputs, batch):
        fields = split(impression.request + impression.mean + impression.candidate, 4)
        attended = fields
        for layer in model.layers:
            attended = self_attention(layer.linear.weight.tolist(), attended)
        both = [number for field in attended for number in field] + (crosses_of(model.pairs, fields) if crosses else [])
        expected = impression.weights + linear(model.output, both)[0] + (mlp(model.mlp, both) if deep else 0.0)
        expected += dot(model.clicked.top.linear.weight[0].tolist(), impression.mean)
        assert logits[index].item() == pytest.approx(expected, abs=1e-4)
