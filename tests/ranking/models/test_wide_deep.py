"""The logits of `wide_deep` equal its formula, computed one impression at a time."""

import math

import numpy as np
import pytest
import torch

from rayrec.config import Ranker
from rayrec.data.batches import batches
from rayrec.data.loading import RankingData
from rayrec.data.windows import HistoryGather, LatestClicks
from rayrec.ranking.embedding import concatenate_fields
from rayrec.ranking.scorer import Scorer
from tests.ranking.impressions import untrained
from tests.ranking.test_sequences import interest_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("sequence", ["mean", "gru", "gru_attention"])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, sequence: str) -> None:
    model = untrained("wide_deep", data, settings, spread=0.3, sequence=sequence, size=3).model.eval()
    batch = next(iter(batches(data.test, HistoryGather(data.clicks, LatestClicks(5), CPU), 20, CPU)))
    logits = model(batch)
    inputs, topics = model.inputs, data.items.multivalued["topics"]
    topic_count = len(data.encoders.item_encoder.vocabularies["topics"])
    for row in range(len(logits)):
        user, item = batch.user[row : row + 1], batch.candidates[row]
        clicked = [int(i) for i in batch.history[row] if i]
        mean = inputs.items(torch.tensor(clicked))[0].mean(0) if clicked else torch.zeros(inputs.item_size)
        context, context_weights = concatenate_fields([inputs.context.embed(batch.context[row : row + 1] + torch.tensor([0, 4]))])
        (person, person_weights), (video, video_weights) = inputs.users(user), inputs.items(item)
        vectors = [inputs.items(torch.tensor([one]))[0][0].tolist() for one in clicked]
        interest = torch.tensor([interest_of(model.sequence, vectors, video[0].tolist())])
        of_request, of_candidate = (interest[:, :0], interest) if sequence == "gru_attention" else (interest, interest[:, :0])
        deep = model.mlp(torch.cat([person, context, mean[None], of_request], 1), torch.cat([video, of_candidate], 1)[None])[0, 0]
        wide = (person_weights + context_weights + video_weights).sum()
        cross = 0.0
        of_item = [int(t) for t in topics[item[0]] if t]
        all_clicks = sum(int((topics[i] > 0).sum()) for i in clicked)
        for topic in of_item:
            clicks = sum(int(topic in topics[i].tolist()) for i in clicked)
            liking = math.log((clicks + 0.5) / (all_clicks / topic_count + 0.5))
            cross += model.topic_cross.weight[topic, 0].item() * liking / len(of_item)
        torch.testing.assert_close(logits[row, 0], deep + wide + cross, rtol=1e-4, atol=1e-5)


def test_candidates_are_scored_alike_alone_and_together(data: RankingData, settings: Ranker) -> None:
    scorer = Scorer.untrained(settings, data)
    candidates = torch.arange(1, 31).numpy()[None]
    history = [data.clicks.of_user(3)]
    times = [np.arange(len(history[0]))]
    together = scorer.score(["u1"], history, times, data.test.at[:1], candidates)
    alone = [scorer.score(["u1"], history, times, data.test.at[:1], candidates[:, n : n + 1])[0, 0] for n in range(30)]
    torch.testing.assert_close(torch.from_numpy(together[0]), torch.tensor(alone))
