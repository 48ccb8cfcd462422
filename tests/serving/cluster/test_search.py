"""The deployment that searches, and how the ingress asks it: a published bundle, without a cluster."""

import asyncio
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from ray.exceptions import ActorUnavailableError

from rayrec.config import Config, Search, Serving, Uploads
from rayrec.serving.additions import AddedVideo
from rayrec.serving.bundle import locate
from rayrec.serving.cluster import recall as recall_module
from rayrec.serving.cluster import search as search_module
from rayrec.serving.cluster.recall import TopicRecall
from rayrec.serving.cluster.search import VideoSearch
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.rollout.arms import Rollout
from rayrec.serving.search_query import Found, SearchQuery, Unanswered
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.serving.cluster.test_recall import Rankers
from tests.serving.http.helpers import BUSY, error, in_process


class Searches:
    """Plays the handle of VideoSearch: one replica, in this process."""

    def __init__(self, replica: VideoSearch) -> None:
        self.replica, self.prepared, self.failures = replica, list[str](), list[Exception]()
        self.search = self

    def broadcast(self, method: str, version: str) -> "Searches":
        assert method == "prepare"
        self.prepared.append(version)
        return self

    async def results_async(self) -> None:
        await self.replica.prepare(self.prepared[-1])

    async def remote(self, version: str, query: SearchQuery) -> Found | Unanswered:
        if self.failures:
            raise self.failures.pop()
        return await self.replica.search(version, query)


@pytest.fixture
def searched(world: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Config:
    """The config of the small world, whose titles are indexed and published beside its first bundle."""
    for module in (recall_module, search_module):
        monkeypatch.setattr(module, "copies_folder", lambda: tmp_path / "copies")
    config = world.model_copy(update={"search": Search(modalities=["text"], epochs=20, floor=0.5)})
    for stage in ("search_index", "publish"):
        run_stage(Workspace(config.workspace), load_stage(stage), config)
    return config


def versions(config: Config) -> list[str]:
    return [manifest.version for manifest in Workspace(config.workspace).versions("publish")]


def test_words_find_videos_of_the_bundle_and_those_that_are_added(searched: Config) -> None:
    config = searched.model_copy(update={"serving": Serving(uploads=Uploads())})
    version, replica = locate(Workspace(config.workspace), None)[0], VideoSearch(config)
    store = replica.store
    assert store is not None
    of_another = AddedVideo({"video_id": "other", "title": "a puppy of another model"})
    added = AddedVideo({"video_id": "new", "title": "a puppy of dogs", "tags": ["dog"]})

    async def walk() -> None:
        await replica.prepare(version)
        found = await replica.search(version, SearchQuery("text", "dogs", 40))
        assert isinstance(found, Found)
        assert {int(each[1:]) % 4 for each in found.video_ids[:8]} == {0}
        assert "new" not in found.video_ids
        store.add_video("other", "another model", of_another.to_json())
        store.add_video("new", "", added.to_json())
        found = await replica.search(version, SearchQuery("text", "puppy", 40, -1.0))
        assert isinstance(found, Found)
        assert "new" in found.video_ids
        assert "other" not in found.video_ids
        refused = await replica.search(version, SearchQuery("picture", b"no", 5))
        assert refused == Unanswered(422, "this index can't be searched by picture; it was made for text")

    asyncio.run(walk())
    store.close()


def test_the_ingress_asks_for_its_own_bundle_and_says_what_a_bundle_lacks(
    searched: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall_module, "RayMetrics", LocalMetrics)
    monkeypatch.setattr(recall_module.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    for loop in ("_refresh", "_prune"):
        monkeypatch.setattr(TopicRecall, loop, lambda self: asyncio.sleep(0))
    searches = Searches(VideoSearch(searched))
    recall = TopicRecall(searched, cast(Any, Rankers(searched.workspace)), cast(Any, searches))
    without, with_index = versions(searched)

    async def asked(client: httpx.AsyncClient, version: str) -> httpx.Response:
        await recall.reconfigure(Rollout(version=version).model_dump())
        while recall._tasks:
            await asyncio.sleep(0.005)
        return await client.post("/v1/search", json={"text": "dogs", "k": 5})

    async def walk() -> None:
        async with in_process(recall.__serve_build_asgi_app__()) as client:
            answer = await asked(client, with_index)
            assert answer.json()["bundle"] == with_index
            assert {int(video["video_id"][1:]) % 4 for video in answer.json()["videos"]} == {0}
            assert "run `rayrec search_index CONFIG`" in error(await asked(client, without), 404)
            assert searches.prepared == [with_index, without]
            searches.failures.append(ActorUnavailableError("gone", None))
            assert error(await client.post("/v1/search", json={"text": "dogs"}), 503) == BUSY

    asyncio.run(walk())
    recall.store.close()
    assert recall.metrics.value("searches_total", kind="text") == 1


def test_a_broken_index_does_not_end_the_replica(searched: Config) -> None:
    version, folder = locate(Workspace(searched.workspace), None)
    (Path(folder) / "search" / "vectors.npy").write_bytes(b"broken")
    asyncio.run(VideoSearch(searched).prepare(version))


def test_the_application_has_the_deployment_if_the_config_has_the_section(searched: Config, world: Config) -> None:
    from tests.serving.cluster.test_deployments import built

    assert "VideoSearch" not in built(world)
    settings = built(searched)
    assert settings["VideoSearch"].num_replicas == 1
    assert settings["VideoSearch"].user_config is None
