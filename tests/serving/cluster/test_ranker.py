"""How requests are ranked together, what a ranker loads, and on which device."""

import asyncio
import pickle

import numpy as np
import pytest
import torch

from rayrec.config import Config
from rayrec.data.batches import Batch
from rayrec.data.windows import HistoryGather
from rayrec.ranking.fitting import predict
from rayrec.ranking.model import RankingModel
from rayrec.ranking.scorer import Scorer
from rayrec.registry import NoOptions
from rayrec.serving.bundle import BundleError, load_scorer, locate
from rayrec.serving.cluster import ranker as ranker_module
from rayrec.serving.cluster.ranker import NeuralRanker, RankRequest, reserved_device
from rayrec.serving.recommender import UserState
from rayrec.serving.rollout.arms import Rollout
from rayrec.serving.rollout.versions import VersionCache, warm_up
from rayrec.workspace.versions import Workspace
from tests.fixtures.encoded import whole_log
from tests.serving.cluster.broken_bundles import spoil, without_numbers


def test_a_request_travels_as_bytes() -> None:
    user = UserState(np.array([3, 5]), np.array([10, 20]), np.empty(0, np.int32))
    request = RankRequest.of("ann", user, 50, np.arange(600), {"device": "phone"})
    assert np.frombuffer(request.clicked, np.int32).tolist() == [3, 5]
    assert np.frombuffer(request.clicked_at, np.int64).tolist() == [10, 20]
    assert np.frombuffer(request.candidates, np.int32).tolist() == list(range(600))
    sent = pickle.dumps(request)
    assert pickle.loads(sent) == request
    assert len(sent) < 600 * 4 + 400  # little beside the candidates


def test_requests_ranked_together_get_the_scores_that_they_get_alone(published: Config) -> None:
    workspace = Workspace(published.workspace)
    version, folder = locate(workspace, None)
    scorer = load_scorer(workspace.fs, folder)
    histories = [np.arange(1, 1 + n, dtype=np.int32) for n in (0, 3, 30)]
    times = [np.arange(n, dtype=np.int64) for n in (0, 3, 30)]
    candidates = [np.arange(1, 1 + n, dtype=np.int32) for n in (40, 1, 7)]

    ranker = NeuralRanker(published.workspace)
    requests = [RankRequest(f"u{n}", histories[n].tobytes(), times[n].tobytes(), 50, candidates[n].tobytes(), {}) for n in range(3)]
    for n, answer in enumerate(ranker.rank_together(version, requests)):
        scores = np.frombuffer(answer, np.float32)
        alone = scorer.score([f"u{n}"], [histories[n]], [times[n]], np.array([50]), candidates[n][None])[0]
        np.testing.assert_allclose(scores, alone, rtol=1e-5)


class Clock(RankingModel):
    """Scores by the age of each click and by the hour: what a model of sessions looks at."""

    def forward(self, batch: Batch) -> torch.Tensor:
        hours_BH = (batch.at[:, None] - batch.history_at) / 3.6e6 * (batch.history > 0)
        order_H = torch.arange(batch.history.shape[1]) + 1
        return (hours_BH / order_H).sum(1, keepdim=True) + batch.context / 10 + batch.candidates / 40 - 3


def test_what_evaluation_and_the_service_say_of_an_impression_is_the_same(published: Config) -> None:
    workspace = Workspace(published.workspace)
    version, _ = locate(workspace, None)
    settings = published.ranker.model_copy(update={"context_fields": ["hour"], "history_length": 6})
    data = whole_log(workspace, published.model_copy(update={"ranker": settings}))
    scorer = Scorer.untrained(settings, data)
    scorer.model = Clock(settings, NoOptions(), data.tables)
    test, clicks = data.test, data.clicks
    offline = predict(scorer.model, test, HistoryGather(clicks, scorer.model.window, scorer.device), scorer.device)

    ranker = NeuralRanker(published.workspace)
    ranker.scorers = VersionCache({version: scorer}.__getitem__)
    requests = []
    for user, item, at, end in zip(test.user.tolist(), test.item, test.at.tolist(), test.end, strict=True):
        known = slice(clicks.offsets[user], end)
        history, times = clicks.items[known].tobytes(), clicks.times[known].tobytes()
        requests.append(RankRequest(data.users.ids[user], history, times, at, np.int32(item).tobytes(), {}))
    served = [np.frombuffer(answer, np.float32)[0] for answer in ranker.rank_together(version, requests)]
    assert offline.std() > 0.1
    np.testing.assert_allclose(served, offline, atol=1e-5)


@pytest.mark.parametrize(("connected", "reserved", "device"), [(False, [], "cpu"), (True, [], "cpu"), (True, ["0"], "cuda")])
def test_a_ranker_takes_the_gpu_that_was_reserved_and_no_other(
    monkeypatch: pytest.MonkeyPatch, connected: bool, reserved: list[str], device: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(ranker_module.ray, "is_initialized", lambda: connected)
    monkeypatch.setattr(ranker_module.ray, "get_gpu_ids", lambda: reserved)
    assert reserved_device().type == device


def test_a_ranker_survives_a_rollout_that_it_can_not_carry_out(world: Config) -> None:
    version = locate(Workspace(world.workspace), None)[0]
    spoil(world, version, without_numbers)
    ranker = NeuralRanker(world.workspace)

    async def walk() -> None:
        for rollout in (Rollout(version=version), Rollout(version="0000-0")):
            await ranker.reconfigure(rollout.model_dump())
        with pytest.raises(BundleError, match="not probabilities"):
            await ranker.prepare(version)

    asyncio.run(walk())


def test_scores_that_are_no_probabilities_are_found_before_anybody_sees_them(world: Config) -> None:
    workspace = Workspace(world.workspace)
    version, folder = locate(workspace, None)
    warm_up(load_scorer(workspace.fs, folder), folder)
    spoil(world, version, without_numbers)
    with pytest.raises(BundleError, match="not probabilities; train and publish again"):
        warm_up(load_scorer(workspace.fs, folder), folder)
