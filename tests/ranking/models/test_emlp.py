"""The logits of `emlp` equal its formula, computed one impression at a time."""

import pytest

from rayrec.config import Ranker
from rayrec.data.loading import RankingData
from tests.ranking.impressions import dot, request_mlp, requests, taken_apart, untrained


@pytest.mark.parametrize("connection", ["input", "both", "top"])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, connection: str) -> None:
    settings = settings.model_copy(update={"history_connection": connection})
    model = untrained("emlp", data, settings, spread=0.3).model.eval()
    batch = requests(data, settings, 3)
    logits = model(batch)
    for index, impression in taken_apart(model.inputs, batch):
        request = impression.request + (impression.mean if connection != "top" else [])
        expected = request_mlp(model.mlp, request, impression.candidate)
        if connection != "input":
            expected += dot(model.clicked.top.linear.weight[0].tolist(), impression.mean)
        assert logits[index].item() == pytest.approx(expected, abs=1e-4)


def test_topics_have_their_own_size(data: RankingData, settings: Ranker) -> None:
    inputs = untrained("emlp", data, settings).model.inputs
    assert inputs.item_fields == ["author_id", "video_id", "tags", "topics", "audio", "cover"]
    assert inputs.item_size == 5 * settings.embedding_size + settings.topic_size
