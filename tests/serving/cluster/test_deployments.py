"""The Serve application without a cluster: what it is built from, how requests are ranked together, and what a reconfigure does."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from ray.exceptions import ActorUnavailableError
from ray.serve import Application
from ray.serve._private.build_app import build_app
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from rayrec.config import Config, ConfigError, dump
from rayrec.data.batches import Batch
from rayrec.data.history import HistoryGather
from rayrec.data.loading import ranking_data
from rayrec.ranking.model import NoOptions, RankingModel
from rayrec.ranking.scorer import Scorer
from rayrec.serving.bundle import BundleError, load_scorer, locate
from rayrec.serving.cluster import deployments
from rayrec.serving.cluster.deployments import Call, NeuralRanker, TopicRecall, app
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import OverloadedError
from rayrec.serving.rollout.arms import Canary, Report, Rollout
from rayrec.serving.rollout.versions import VersionCache, warm_up
from rayrec.stages.pipeline import load_stage
from rayrec.training.trainer import predict
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.serving.small_world import build_workspace


def test_the_application_is_built_from_a_path_or_the_content_of_a_config(published: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(dump(published)))
    for args in ({"config": str(path)}, {"config": dump(published)}, {"workspace": published.workspace}):
        assert isinstance(app(args), Application)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="workspce"):
        app({"workspce": "/w"})
    with pytest.raises(ConfigError, match=r"unknown key 'recall.topcs'; did you mean 'topics'\?"):
        app({"config": {"recall": {"topcs": 3}}, "workspace": "/w"})
    with pytest.raises(ConfigError, match=r"there is no source 'topic'; did you mean 'topics'\?"):
        app({"config": {"recall": {"sources": {"topic": 1}}}, "workspace": "/w"})
    with pytest.raises(ConfigError, match="give an absolute path or a URI"):
        app({"workspace": "relative"})


def built(config: Config, **serving: object) -> dict[str, Any]:
    """The settings of each deployment of the application."""
    settings = dump(config)
    settings["serving"] |= serving
    found = build_app(app({"config": settings}), name="rayrec").deployments
    return {deployment.name: deployment._deployment_config for deployment in found}


def test_rankers_follow_the_load_between_the_two_numbers(published: Config) -> None:
    assert built(published)["NeuralRanker"].autoscaling_config is None
    scaling = built(published, max_ranker_replicas=3)["NeuralRanker"].autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 3, 8)
    assert built(published, ranker_replicas=2, max_ranker_replicas=2)["NeuralRanker"].num_replicas == 2


@pytest.mark.parametrize(("state", "resources"), [(None, ["node:__internal_head__"]), ("redis://db:6379/0", [])])
def test_recall_stays_where_its_events_are(published: Config, state: str | None, resources: list[str]) -> None:
    settings = dump(published)
    settings["serving"]["state"] = state
    (recall,) = (one for one in build_app(app({"config": settings}), name="r").deployments if one.name == "TopicRecall")
    assert list(recall.ray_actor_options.get("resources", {})) == resources


def test_requests_ranked_together_get_the_scores_that_they_get_alone(published: Config) -> None:
    workspace = Workspace(published.workspace)
    version, folder = locate(workspace, None)
    scorer = load_scorer(workspace.fs, folder)
    histories = [np.arange(1, 1 + n, dtype=np.int32) for n in (0, 3, 30)]
    times = [np.arange(n, dtype=np.int64) for n in (0, 3, 30)]
    candidates = [np.arange(1, 1 + n, dtype=np.int32) for n in (40, 1, 7)]

    ranker = NeuralRanker(published.workspace)
    calls = [(version, f"u{n}", histories[n].tobytes(), times[n].tobytes(), 50, candidates[n].tobytes(), {}) for n in range(3)]
    for n, answer in enumerate(ranker.rank_together(calls)):
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
    data = ranking_data(workspace, settings, published.split)
    scorer = Scorer.untrained(settings, data)
    scorer.model = Clock(settings, NoOptions(), data.tables)
    test, clicks = data.test, data.clicks
    offline = predict(scorer.model, test, HistoryGather(clicks, settings.history_length, scorer.device), scorer.device)

    ranker = NeuralRanker(published.workspace)
    ranker.scorers = VersionCache({version: scorer}.__getitem__)
    calls = []
    for user, item, at, end in zip(test.user.tolist(), test.item, test.at.tolist(), test.end, strict=True):
        known = slice(clicks.offsets[user], end)
        history, times = clicks.items[known].tobytes(), clicks.times[known].tobytes()
        calls.append((version, data.users.ids[user], history, times, at, np.int32(item).tobytes(), {}))
    served = [np.frombuffer(answer, np.float32)[0] for answer in ranker.rank_together(calls)]
    assert offline.std() > 0.1
    np.testing.assert_allclose(served, offline, atol=1e-5)


# --- what a reconfigure does ---


class Rankers:
    """Plays the handle of NeuralRanker: one replica, in this process."""

    def __init__(self, workspace: str) -> None:
        self.replica = NeuralRanker(workspace)
        self.failures: list[Exception] = []  # what the next calls end with
        self.away = 1  # how often Serve has no replica in its lists
        self.rank = self

    def broadcast(self, method: str, version: str) -> "Rankers":
        assert method == "prepare"
        self.version = version
        if self.away:
            self.away -= 1
            raise DeploymentUnavailableError(DeploymentID("NeuralRanker", "rayrec"))
        return self

    async def results_async(self) -> list[int]:
        return [await self.replica.prepare(self.version)]

    async def remote(self, call: Call) -> bytes:
        if self.failures:
            raise self.failures.pop()
        return self.replica.rank_together([call])[0]


@pytest.fixture
def world(tmp_path: Path) -> Config:
    """A workspace of its own, whose bundles may be broken."""
    return build_workspace(tmp_path / "world")


def publish(config: Config) -> str:
    return run_stage(Workspace(config.workspace), load_stage("publish"), config, force=True)[0].version


def spoil(config: Config, version: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Change the weights of a bundle's ranker, checksum and all: only who loads it will know."""
    _, folder = locate(Workspace(config.workspace), version)
    file, checksums = Path(folder) / "ranker" / "weights.safetensors", Path(folder) / "checksums.json"
    file.write_bytes(save_tensors(change(load_tensors(file.read_bytes()))))
    known = json.loads(checksums.read_text())
    checksums.write_text(json.dumps(known | {"ranker/weights.safetensors": hashlib.sha256(file.read_bytes()).hexdigest()}))


def without_numbers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


@pytest.fixture
def recall(world: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[TopicRecall]:
    """A replica of TopicRecall outside Ray, without its loops."""
    monkeypatch.setattr(deployments, "bind_to_node_address", lambda: None)
    monkeypatch.setattr(deployments, "RayMetrics", LocalMetrics)
    monkeypatch.setattr(deployments, "log_as_json", lambda: None)
    monkeypatch.setattr(deployments.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(deployments, "_replica_id", lambda: "replica")
    for loop in ("_refresh", "_prune"):
        monkeypatch.setattr(TopicRecall, loop, lambda self: asyncio.sleep(0))
    replica = TopicRecall(world, cast(Any, Rankers(world.workspace)))
    yield replica
    replica.store.close()


async def reconfigured(recall: TopicRecall, rollout: Rollout) -> Report:
    """What the replica reports when it has done with a rollout."""
    await recall.reconfigure(rollout.model_dump())
    while recall._tasks:
        await asyncio.sleep(0.005)
    return await recall.report()


def test_a_running_replica_moves_to_another_bundle_and_a_canary(recall: TopicRecall, world: Config) -> None:
    first, second = locate(Workspace(world.workspace), None)[0], publish(world)

    async def walk() -> None:
        assert (await reconfigured(recall, Rollout(version=first))).bundles == {"stable": first}
        stable = recall.arms.stable
        report = await reconfigured(recall, Rollout(version=first, canary=Canary(version=second, share=0.5)))
        assert (report.bundles, report.share, report.refused) == ({"stable": first, "canary": second}, 0.5, "")
        assert recall.arms.stable is stable  # not loaded again
        canary = recall.arms.canary
        assert (await reconfigured(recall, Rollout(version=second))).bundles == {"stable": second}
        assert recall.arms.stable is canary
        assert recall.ranker.replica.scorers.versions() == [second]  # the first one's was never asked for
        assert recall.store.latest() == 0  # trying out showed nothing to anybody

    asyncio.run(walk())
    assert recall.metrics.value("bundle_loaded", version=first, arm="stable") == 0
    assert recall.metrics.value("bundle_loaded", version=second, arm="stable") == 1


@pytest.mark.parametrize("harm", ["gone", "broken", "no numbers", "other items"])
def test_what_can_not_be_served_is_refused_and_the_old_bundle_goes_on(recall: TopicRecall, world: Config, harm: str) -> None:
    workspace = Workspace(world.workspace)
    first, second = locate(workspace, None)[0], publish(world)
    if harm == "broken":
        (Path(locate(workspace, second)[1]) / "items.arrow").write_bytes(b"broken")
    elif harm == "no numbers":
        spoil(world, second, without_numbers)
    elif harm == "other items":
        recall.ranker.replica.prepare = lambda version: asyncio.sleep(0, 7)

    async def walk() -> Report:
        await reconfigured(recall, Rollout(version=first))
        return await reconfigured(recall, Rollout(version="0000-0" if harm == "gone" else second))

    report = asyncio.run(walk())
    said = {"gone": "holds no bundle", "broken": "items.arrow", "no numbers": "not probabilities", "other items": "knows 7 items"}
    assert said[harm] in report.refused
    assert (report.bundles, report.refusals, report.switching) == ({"stable": first}, 1, False)
    assert recall.metrics.value("swaps_refused_total") == 1
    assert asyncio.run(reconfigured(recall, Rollout(version=first))).refused == ""


def test_a_new_replica_serves_an_older_bundle_rather_than_none(recall: TopicRecall, world: Config) -> None:
    workspace = Workspace(world.workspace)
    first, second = locate(workspace, None)[0], publish(world)
    (Path(locate(workspace, second)[1]) / "items.arrow").write_bytes(b"broken")
    report = asyncio.run(reconfigured(recall, Rollout(version=second)))
    assert report.bundles == {"stable": first}
    assert "items.arrow" in report.refused


def test_a_ranker_survives_a_rollout_that_it_can_not_carry_out(world: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments, "bind_to_node_address", lambda: None)
    version = locate(Workspace(world.workspace), None)[0]
    spoil(world, version, without_numbers)
    ranker = NeuralRanker(world.workspace)

    async def walk() -> None:
        for rollout in (Rollout(version=version), Rollout(version="0000-0")):
            await ranker.reconfigure(rollout.model_dump())
        with pytest.raises(BundleError, match="not probabilities"):
            await ranker.prepare(version)

    asyncio.run(walk())


def test_a_ranker_that_dies_is_answered_for_by_another(recall: TopicRecall, world: Config) -> None:
    async def walk() -> None:
        await reconfigured(recall, Rollout())
        ranker, ask = cast(Any, recall.ranker), recall.arms.stable
        lost = ActorUnavailableError("gone", None)
        ranker.failures = [lost]
        assert len((await ask.recommend("u1", 5, [])).items) == 5
        for failures in ([lost, lost], [BackPressureError(64, 64)]):
            ranker.failures = failures
            with pytest.raises(OverloadedError):
                await ask.recommend("u1", 5, [])
            assert not ranker.failures  # no more was tried than that

    asyncio.run(walk())


def test_scores_that_are_no_probabilities_are_found_before_anybody_sees_them(world: Config) -> None:
    workspace = Workspace(world.workspace)
    version, folder = locate(workspace, None)
    warm_up(load_scorer(workspace.fs, folder), folder)
    spoil(world, version, without_numbers)
    with pytest.raises(BundleError, match="not probabilities; train and publish again"):
        warm_up(load_scorer(workspace.fs, folder), folder)
