"""Music through the deployments, without a cluster: it is swapped with its bundle, and search places what no bundle knows."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from ray.exceptions import ActorUnavailableError

from rayrec.config import Config, Serving, Uploads
from rayrec.serving.additions import AddedVideo
from rayrec.serving.bundle import locate
from rayrec.serving.cluster import recall as recall_module
from rayrec.serving.cluster import search as search_module
from rayrec.serving.cluster.recall import TopicRecall
from rayrec.serving.cluster.search import VideoSearch
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import now_ms
from rayrec.serving.rollout.arms import Canary, Rollout
from rayrec.workspace.versions import Workspace
from tests.serving.cluster.test_recall import Rankers
from tests.serving.http.helpers import BUSY, error, in_process
from tests.serving.music_world import build_music_world, publish, sound_of


class Played:
    """Plays the handle of VideoSearch: one replica, in this process."""

    def __init__(self, replica: VideoSearch) -> None:
        self.replica, self.failures = replica, list[Exception]()
        self.place = SimpleNamespace(remote=self._place)

    def broadcast(self, method: str, version: str) -> SimpleNamespace:
        assert method == "prepare"
        return SimpleNamespace(results_async=lambda: self.replica.prepare(version))

    async def _place(self, version: str, video: str | dict[str, list[float]]) -> object:
        if self.failures:
            raise self.failures.pop()
        return await self.replica.place(version, video)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for module in (recall_module, search_module):
        monkeypatch.setattr(module, "copies_folder", lambda: tmp_path / "copies")
    monkeypatch.setattr(recall_module, "RayMetrics", LocalMetrics)
    monkeypatch.setattr(recall_module.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    for loop in ("_refresh", "_prune"):
        monkeypatch.setattr(TopicRecall, loop, lambda self: asyncio.sleep(0))
    return build_music_world(tmp_path / "world").model_copy(update={"serving": Serving(uploads=Uploads())})


async def use(recall: TopicRecall, rollout: Rollout) -> None:
    await recall.reconfigure(rollout.model_dump())
    while recall._tasks:
        await asyncio.sleep(0.005)


async def tracks(client: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    answer = await client.post("/v1/music", json=body)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["tracks"]
    return found


def test_music_comes_and_goes_with_its_bundle_and_a_forgotten_user_stays_forgotten(config: Config) -> None:
    first, _ = locate(Workspace(config.workspace), None)
    second = publish(config.model_copy(update={"music": None}))
    third = publish(config)
    recall = TopicRecall(config, cast(Any, Rankers(config.workspace)))

    async def walk() -> None:
        await use(recall, Rollout(version=first))
        async with in_process(recall.__serve_build_asgi_app__()) as client:
            before, mean = await tracks(client, user_id="u3", video_id="v2"), await tracks(client, video_id="v2")
            assert before != mean
            await use(recall, Rollout(version=second))
            refused = error(await client.post("/v1/music", json={"user_id": "u3", "video_id": "v2"}), 404)
            assert refused.startswith(f"bundle {second} has no music")
            await use(recall, Rollout(version=second, canary=Canary(version=first, share=0.99)))
            assert await tracks(client, user_id="u3", video_id="v2") == before
            await use(recall, Rollout(version=first))  # the rollback
            assert await tracks(client, user_id="u3", video_id="v2") == before
            await client.delete("/v1/users/u3")
            for version in (first, third):
                await use(recall, Rollout(version=version))
                answer = await client.post("/v1/music", json={"user_id": "u3", "video_id": "v2"})
                assert answer.json() == {"bundle": version, "tracks": mean}

    asyncio.run(walk())
    recall.store.close()


def test_a_bundle_whose_music_is_damaged_is_refused_and_the_old_one_goes_on(config: Config) -> None:
    workspace = Workspace(config.workspace)
    first, _ = locate(workspace, None)
    broken = publish(config)
    (Path(locate(workspace, broken)[1]) / "music" / "tracks.arrow").write_bytes(b"broken")
    recall = TopicRecall(config, cast(Any, Rankers(config.workspace)))

    async def walk() -> None:
        await use(recall, Rollout(version=first))
        await use(recall, Rollout(version=broken))
        async with in_process(recall.__serve_build_asgi_app__()) as client:
            answer = await client.post("/v1/music", json={"video_id": "v2"})
            assert (answer.status_code, answer.json()["bundle"]) == (200, first)

    asyncio.run(walk())
    recall.store.close()
    assert "music/tracks.arrow is not the file that was published" in recall.refused


def test_search_places_videos_that_are_in_no_bundle(config: Config) -> None:
    version, _ = locate(Workspace(config.workspace), None)
    played = Played(VideoSearch(config))
    recall = TopicRecall(config, cast(Any, Rankers(config.workspace)), cast(Any, played))

    async def walk() -> None:
        await use(recall, Rollout(version=version))
        assert recall.arms is not None
        async with in_process(recall.__serve_build_asgi_app__()) as client:
            by_vectors = await tracks(client, vectors={"audio": sound_of(102)})
            assert [each["track_id"] for each in by_vectors] == [each["track_id"] for each in await tracks(client, video_id="v2")]
            added = AddedVideo({"video_id": "new"}, features={"audio": sound_of(102)})  # type: ignore[dict-item]
            recall.store.add_video("new", recall.arms.stable.bundle.model, added.to_json())
            recall.store.add_video("bare", "", AddedVideo({"video_id": "bare"}).to_json())
            recall.arms.stable.refresh(now_ms())
            assert await tracks(client, video_id="new") == by_vectors
            assert {each["fit"] for each in await tracks(client, video_id="bare")} == {None}
            wrong = error(await client.post("/v1/music", json={"vectors": {"audio": [1.0]}}), 422)
            assert wrong == "vectors.audio: must hold 6 numbers, as features do, not 1"
            wrong = error(await client.post("/v1/music", json={"vectors": {"cover": [1.0]}}), 422)
            assert wrong.startswith("vectors.cover: the space of search does not read cover")
            played.failures.append(ActorUnavailableError("gone", None))
            assert error(await client.post("/v1/music", json={"video_id": "new"}), 503) == BUSY

    asyncio.run(walk())
    recall.store.close()
    assert recall.metrics.value("music_total", kind="video") == 3
