"""What a reconfigure does to a replica of TopicRecall, and how it asks rankers. Without a cluster."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from ray.exceptions import ActorUnavailableError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from rayrec.config import Config
from rayrec.serving.additions import AddedVideo
from rayrec.serving.bundle import locate
from rayrec.serving.cluster import recall as recall_module
from rayrec.serving.cluster.ranker import Missing, NeuralRanker, RankRequest
from rayrec.serving.cluster.recall import TopicRecall
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import OverloadedError, now_ms
from rayrec.serving.rollout.arms import CANARY, Canary, Report, Rollout
from rayrec.serving.rollout.guardrails import FAILED, Guardrails
from rayrec.workspace.versions import Workspace
from tests.serving.cluster.broken_bundles import publish, spoil, without_numbers
from tests.serving.small_world import publish_without_log


class Rankers:
    """Plays the handle of NeuralRanker: one replica, in this process."""

    def __init__(self, workspace: str) -> None:
        self.replica = NeuralRanker(workspace)
        self.failures: list[Exception] = []  # what the next calls end with
        self.away = 1  # how often Serve has no replica in its lists
        self.given: list[list[int]] = []  # the numbers of the added videos that came together
        self.rank = self
        self.look = Look(self)

    def broadcast(self, method: str, *arguments: Any) -> "Rankers":
        self.call = method, arguments
        if method == "take":
            self.given.append([addition.number for addition in arguments[1]])
        elif self.away:
            self.away -= 1
            raise DeploymentUnavailableError(DeploymentID("NeuralRanker", "rayrec"))
        return self

    async def results_async(self) -> list[Any]:
        method, arguments = self.call
        return [await getattr(self.replica, method)(*arguments)]

    async def remote(self, version: str, requests: list[RankRequest]) -> list[bytes] | Missing:
        if self.failures:
            raise self.failures.pop()
        return await self.replica.rank(version, requests)


class Look:
    """The method `look` of the handle."""

    def __init__(self, rankers: Rankers) -> None:
        self.rankers = rankers

    async def remote(self, *arguments: Any) -> Any:
        if self.rankers.failures:
            raise self.rankers.failures.pop()
        return await self.rankers.replica.look(*arguments)


@pytest.fixture
def recall(world: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TopicRecall]:
    """A replica of TopicRecall outside Ray, without its loops."""
    monkeypatch.setattr(recall_module, "RayMetrics", LocalMetrics)
    monkeypatch.setattr(recall_module.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(recall_module, "replica_id", lambda: "replica")
    monkeypatch.setattr(recall_module, "copies_folder", lambda: tmp_path / "copies")
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


def test_a_report_has_a_copy_of_whom_the_arms_failed_since_the_canary_began(recall: TopicRecall, world: Config) -> None:
    first, second = locate(Workspace(world.workspace), None)[0], publish(world)
    canary = Rollout(version=first, canary=Canary(version=second, share=0.5))

    async def walk() -> None:
        assert (await reconfigured(recall, Rollout(version=first))).guardrails == Guardrails()
        assert (await reconfigured(recall, canary)).guardrails == Guardrails(second)
        recall.arms.guardrails.note(FAILED, CANARY, "ann")
        report = await recall.report()
        recall.arms.guardrails.note(FAILED, CANARY, "bob")  # while the report is on its way
        assert report.guardrails.count(FAILED, CANARY) == 1
        assert (await recall.report()).guardrails.count(FAILED, CANARY) == 2
        again = canary.model_copy(update={"canary": Canary(version=second, share=0.2)})
        assert (await reconfigured(recall, again)).guardrails == Guardrails(second)  # other users have it now

    asyncio.run(walk())


def test_a_bundle_without_a_ranker_is_served_and_left_for_one_with_a_ranker(recall: TopicRecall, world: Config) -> None:
    first = locate(Workspace(world.workspace), None)[0]
    without = publish_without_log(world)

    async def walk() -> None:
        ranker = cast(Any, recall.ranker)
        await ranker.replica.reconfigure(Rollout(version=without).model_dump())
        assert (await reconfigured(recall, Rollout(version=without))).bundles == {"stable": without}
        await recall.arms.stable.recommend("u1", 5, [])
        assert ranker.replica.scorers.versions() == []
        report = await reconfigured(recall, Rollout(version=without, canary=Canary(version=first, share=0.5)))
        assert (report.bundles, report.refused) == ({"stable": without, "canary": first}, "")
        assert ranker.replica.scorers.versions() == [first]
        recall.store.add_video("n1", "", AddedVideo({"video_id": "n1", "published_at": 1}, [3], [0.9]).to_json())
        await recall._tell_rankers()
        assert ranker.given == [[1]]  # only of the bundle that has a ranker
        for name, recommender in recall.arms.named().items():
            recommender.refresh(now_ms())
            page = await recommender.recommend(f"new to {name}", 100, [])
            assert "n1" in recommender.items.ids(page.items)
        for version in (first, without):
            assert (await reconfigured(recall, Rollout(version=version))).bundles == {"stable": version}

    asyncio.run(walk())


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


def test_a_ranker_that_lacks_an_added_video_is_given_it(recall: TopicRecall, world: Config) -> None:
    async def walk() -> None:
        await reconfigured(recall, Rollout())
        ranker, stable = cast(Any, recall.ranker), recall.arms.stable
        for number in (1, 2):
            row = AddedVideo({"video_id": f"n{number}", "published_at": 1}, [3], [0.9]).to_json()
            recall.store.add_video(f"n{number}", "" if number == 1 else "another model", row)
        assert stable.refresh(now_ms())
        page = await stable.recommend("u1", 100, [])
        assert 0 < dict(zip(stable.items.ids(page.items), page.scores, strict=True))["n1"] < 1
        await stable.recommend("u2", 100, [])
        assert ranker.given == [[1]]
        await recall._tell_rankers()  # which have it already
        assert ranker.given == [[1], [1]]
        await recall._tell_rankers()
        assert len(ranker.given) == 2
        version = stable.bundle.version
        ranker.replica.scorers.drop(set(), 0)  # as a ranker that starts anew
        assert version not in ranker.replica.scorers
        assert "n1" in stable.items.ids((await stable.recommend("u3", 100, [])).items)

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
        ranker.failures = [lost]
        assert await ask.attention("u1", "v5") == "the ranker has no user kernels (ranker.user_kernels)"

    asyncio.run(walk())
