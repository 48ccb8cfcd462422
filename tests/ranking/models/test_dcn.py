"""The logits of `dcn` equal its formulas, computed one number of a layer at a time."""

from typing import Any

import pytest

from rayrec.config import ConfigError, Ranker
from rayrec.data.loading import RankingData
from rayrec.ranking.models import check
from tests.ranking.impressions import dot, request_mlp, requests, taken_apart, untrained


@pytest.mark.parametrize("options", [{}, {"version": 2, "layers": 2}, {"version": 2, "rank": 2}], ids=["v1", "v2", "v2 low rank"])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, options: dict[str, Any]) -> None:
    model = untrained("dcn", data, settings, spread=0.15, **options).model.eval()
    batch = requests(data, settings, 3)
    logits, cross = model(batch), model.cross
    if options.get("version") == 2:
        layers = list(cross.layers)
        if "rank" in options:  # W = U V^T
            assert layers[0][0].weight.shape[0] == 2
            layers = [(layer[1].weight @ layer[0].weight, layer[1].bias) for layer in layers]
        else:
            layers = [(layer.weight, layer.bias) for layer in layers]
        output = cross.output.weight[0].tolist()
    else:
        layers = list(zip(cross.weight[:-1], cross.bias, strict=True))
        output = cross.weight[-1].tolist()
    layers = [(weight.tolist(), bias.tolist()) for weight, bias in layers]
    assert len(layers) == options.get("layers", 3)
    for index, impression in taken_apart(model.inputs, batch):
        request = impression.request + impression.mean
        x0 = x = request + impression.candidate
        for weight, bias in layers:
            if options.get("version") == 2:
                x = [x0[k] * (dot(weight[k], x) + bias[k]) + x[k] for k in range(len(x))]
            else:
                x = [x0[k] * dot(x, weight) + bias[k] + x[k] for k in range(len(x))]
        expected = dot(output, x) + request_mlp(model.mlp, request, impression.candidate)
        assert logits[index].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_version_one_has_no_rank(settings: Ranker) -> None:
    with pytest.raises(ConfigError, match="rank is for version 2"):
        check(settings.model_copy(update={"model": "dcn", "options": {"rank": 4}}))
