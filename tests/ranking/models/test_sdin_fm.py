"""The logits of `sdin_fm` are those of `sdin` plus a factorization machine, computed one pair of fields at a time."""

from itertools import combinations

import pytest

from rayrec.config import Ranker
from rayrec.data.loading import RankingData
from rayrec.ranking.models.sdin import SDIN
from tests.ranking.impressions import dot, requests, split, taken_apart, untrained


def test_logits_are_those_of_sdin_and_all_pairs(data: RankingData, settings: Ranker) -> None:
    model = untrained("sdin_fm", data, settings, spread=0.3, size=4).model.eval()
    batch = requests(data, settings, 3)
    logits, sessions = model(batch), SDIN.forward(model, batch)
    for index, impression in taken_apart(model.inputs, batch):
        fields = split(impression.request + impression.candidate, settings.embedding_size)
        expected = impression.weights + sum(dot(one, other) for one, other in combinations(fields, 2))
        assert (logits - sessions)[index].item() == pytest.approx(expected, abs=1e-4)
