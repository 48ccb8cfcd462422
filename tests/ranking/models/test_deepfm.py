"""The logits of `deepfm` equal its formula, computed one pair of numbers at a time."""

from itertools import combinations

import pytest

from rayrec.config import Ranker
from rayrec.data.loading import RankingData
from tests.ranking.impressions import dot, request_mlp, requests, split, taken_apart, untrained
from tests.ranking.test_sequences import interest_of


@pytest.mark.parametrize("fusion", ["concat", "user_attention"])
@pytest.mark.parametrize("sequence", ["mean", "gru", "gru_attention"])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, fusion: str, sequence: str) -> None:
    settings = settings.model_copy(update={"history_connection": "both", "fusion": fusion})
    model = untrained("deepfm", data, settings, spread=0.3, sequence=sequence, size=3).model.eval()
    batch = requests(data, settings, 3)
    logits = model(batch)
    for index, impression in taken_apart(model.inputs, batch):
        request = impression.request + impression.mean
        interest = interest_of(model.sequence, impression.clicked, impression.candidate)
        of_request, of_candidate = ([], interest) if sequence == "gru_attention" else (interest, [])
        expected = impression.weights + request_mlp(model.mlp, request + of_request, impression.candidate + of_candidate)
        for one, other in combinations(split(request + impression.candidate, 4), 2):
            expected += dot(one, other)
        expected += dot(model.clicked.top.linear.weight[0].tolist(), impression.mean)
        if interest:
            expected += dot(model.sequence.top.linear.weight[0].tolist(), interest)
        assert logits[index].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
