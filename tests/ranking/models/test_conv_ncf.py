"""The logits of `conv_ncf` equal its formula, one number at a time, with each map and each head."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rayrec.config import ConfigError, Ranker
from rayrec.data.loading import RankingData
from rayrec.ranking.models.conv_ncf import PAIRS_AT_ONCE
from tests.ranking.impressions import mlp, requests, untrained
from tests.ranking.models.pairs import pairs_of

Map = list[np.ndarray]  # a K x K matrix for each channel


def interaction_map(kind: str, user: list[float], item: list[float]) -> Map:
    size = len(user)
    cells = list(product(range(size), range(size)))
    channels = [np.zeros((size, size)) for _ in range(2 if kind == "stacked" else 1)]
    for a, b in cells:
        if kind == "stacked":
            channels[0][a, b], channels[1][a, b] = user[a], item[b]
        else:
            channels[0][a, b] = user[a] * item[b] if kind == "outer" else user[a] - item[b]
    return channels


def convolved(layer: nn.Conv2d, maps: Map) -> Map:
    """A convolution of 2 x 2 with a stride of 2, and ReLU."""
    assert layer.bias is not None
    half, found = len(maps[0]) // 2, []
    for kernels, bias in zip(layer.weight.detach().numpy(), layer.bias.tolist(), strict=True):
        halved = np.full((half, half), bias)
        for (i, j), (channel, kernel) in product(np.ndindex(half, half), enumerate(kernels)):
            halved[i, j] += sum(kernel[a, b] * maps[channel][2 * i + a, 2 * j + b] for a, b in np.ndindex(2, 2))
        found.append(np.maximum(halved, 0))
    return found


def flat(maps: Map) -> list[float]:
    return [float(value) for channel in maps for value in channel.flatten()]


@pytest.mark.parametrize("kind", ["outer", "difference", "stacked"])
@pytest.mark.parametrize("options", [{}, {"depth": 1, "channels": 3}, {"head": "mlp"}, {"content": False}])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, kind: str, options: dict[str, Any]) -> None:
    model = untrained("conv_ncf", data, settings, spread=0.4, interaction_map=kind, **options).model.eval()
    batch = requests(data, settings, 3)
    logits = model(batch)
    for index, (user, item) in pairs_of(model.pairs, batch):
        maps = interaction_map(kind, user, item)
        for layer in model.network:
            maps = convolved(layer, maps) if isinstance(layer, nn.Conv2d) else maps
        assert logits[index].item() == pytest.approx(mlp(model.network, flat(maps)), abs=1e-4)


@pytest.mark.parametrize(("options", "convolutions", "last"), [({}, 6, 32), ({"depth": 4}, 4, 32 * 4 * 4), ({"head": "mlp"}, 0, 6)])
def test_the_paper_has_six_convolutions(
    data: RankingData, settings: Ranker, options: dict[str, Any], convolutions: int, last: int
) -> None:
    settings = settings.model_copy(update={"embedding_size": 64})
    network = untrained("conv_ncf", data, settings, **options).model.network
    assert sum(isinstance(layer, nn.Conv2d) for layer in network) == convolutions
    assert network[-1].in_features == last


def test_many_pairs_are_scored_in_parts(data: RankingData, settings: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained("conv_ncf", data, settings, spread=0.4).model.eval()
    batch = requests(data, settings, 30)
    together = model(batch)
    monkeypatch.setitem(PAIRS_AT_ONCE, "cpu", 7)
    torch.testing.assert_close(model(batch), together)


def test_a_map_that_cannot_be_halved_is_refused(data: RankingData, settings: Ranker) -> None:
    settings = settings.model_copy(update={"embedding_size": 12})
    with pytest.raises(ConfigError, match="embedding_size: 3 convolutions halve a map of 12 x 12 unevenly; take a power of two"):
        untrained("conv_ncf", data, settings)
    assert untrained("conv_ncf", data, settings, depth=2).model(requests(data, settings, 2)).shape == (5, 2)
