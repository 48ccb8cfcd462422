"""What a replica of VideoIntake does with new videos. Without a cluster."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from rayrec.config import Config, with_values
from rayrec.serving.additions import AddedVideo
from rayrec.serving.bundle import Bundle, BundleError, locate
from rayrec.serving.cluster import intake as intake_module
from rayrec.serving.cluster.intake import VideoIntake
from rayrec.serving.inbox import Described
from rayrec.serving.rollout.arms import Rollout
from rayrec.workspace.versions import Workspace
from tests.serving.media_world import clip

Made = Callable[..., VideoIntake]


@pytest.fixture
def made(media_world: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Made]:
    """Makes a replica outside Ray, over a store of its own."""
    monkeypatch.setattr(intake_module, "copies_folder", lambda: tmp_path / "copies")
    monkeypatch.setattr(intake_module.torch, "set_num_threads", lambda threads: None)
    replicas: list[VideoIntake] = []

    def make(**uploads: object) -> VideoIntake:
        values = {f"serving.uploads.{name}": value for name, value in uploads.items()}
        config = with_values(media_world, values | {"serving.state": str(tmp_path / "events.db")})
        replicas.append(VideoIntake(config))
        return replicas[-1]

    yield make
    for replica in replicas:
        replica.store.close()
        for placer in replica.placers._loaded.values():
            placer.close()


def walk(replica: VideoIntake, steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Starts the replica, takes the steps, and ends what runs in the background."""

    async def go() -> None:
        await replica.reconfigure(Rollout().model_dump())
        await steps()
        for task in list(replica._tasks):
            task.cancel()
        await asyncio.gather(*replica._tasks, return_exceptions=True)

    asyncio.run(go())


def facts_of(video_id: str, path: Path, **more: object) -> dict[str, Any]:
    return {
        "video_id": video_id,
        "uri": str(path),
        "title": "Clip of guitars",
        "tags": ["guitar", "song"],
        "published_at": 5,
    } | more


def test_a_video_is_described_and_kept_with_its_cover(made: Made, media_world: Config, tmp_path: Path) -> None:
    replica, path = made(), tmp_path / "new.mp4"
    path.write_bytes(clip(102))
    (tmp_path / "bad.mp4").write_bytes(b"no film")

    async def steps() -> None:
        assert await replica.add(facts_of("new", path)) == Described(None, None, str(path))
        assert await replica.add(facts_of("new", tmp_path / "bad.mp4")) == Described("not a video or sound file")
        assert await replica.add(facts_of("none", tmp_path / "none.mp4")) == Described("there is no such file")
        other = await replica.add(facts_of("new", Path(media_world.workspace) / "media" / "1.mp4"))
        assert other == Described(None, None, str(path))  # the first one stays

    walk(replica, steps)
    (addition,) = replica.store.additions(0)
    video = AddedVideo.from_json(addition.row)
    workspace = Workspace(media_world.workspace)
    version, folder = locate(workspace, None)
    bundle = Bundle.load(workspace.fs, folder, version)
    assert addition.model == bundle.model
    guitars = next(topic for topic, words in bundle.words.items() if set(words[:2]) == {"guitar", "song"})
    assert video.topics[0] == guitars
    assert workspace.read_file(f"{workspace.root}/covers/{video.cover}").startswith(b"\xff\xd8")


def test_a_bundle_with_another_model_has_the_videos_described_for_it(
    made: Made, media_world: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, path = made(), tmp_path / "new.mp4"
    path.write_bytes(clip(102))
    version, _ = locate(Workspace(media_world.workspace), None)
    for video_id, uri in (("new", path), ("v3", path), ("gone", tmp_path / "gone.mp4")):
        replica.store.add_video(video_id, "another model", AddedVideo(facts_of(video_id, uri)).to_json())

    async def steps() -> None:
        while len(replica._tasks) > 2:  # what a new replica does by itself, beside what it does for ever
            await asyncio.sleep(0.01)
        assert await replica.prepare(version) == 1  # "gone", once more: its file has gone
        with pytest.raises(BundleError, match="holds no bundle 'nowhere'"):
            await replica.prepare("nowhere")

    walk(replica, steps)
    known = {(addition.video_id, addition.model == replica.wanted[0]) for addition in replica.store.additions(0)}
    assert known == {("new", False), ("v3", False), ("gone", False), ("new", True)}  # v3 is in the bundle


def test_what_all_published_bundles_hold_is_no_longer_kept_beside_them(made: Made, tmp_path: Path) -> None:
    replica = made()
    for video_id, model in (("v3", "a"), ("new", "a"), ("v3", "b")):
        replica.store.add_video(video_id, model, AddedVideo(facts_of(video_id, tmp_path / "x.mp4")).to_json())
    assert replica._remove_published() == 1
    assert [addition.video_id for addition in replica.store.additions(0)] == ["new"]
    assert replica._remove_published() == 0


def test_videos_that_appear_in_the_watched_folder_are_added_or_rejected_once(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "one.mp4").write_bytes(clip(101))
    (folder / "one.json").write_text('{"title": "By the sea", "tags": ["sea"], "author_id": "ann"}')
    (folder / "bad.mp4").write_bytes(b"no film")
    (folder / "told.mp4").write_bytes(clip(103))
    (folder / "told.json").write_text('{"titel": "x"}')
    (folder / "sly.mp4").write_bytes(clip(104))
    (folder / "early.mp4").write_bytes(clip(106))
    (folder / "early.json").write_text('{"published_at": 1763700000}')
    (folder / "sly.json").write_text('{"cover_uri": "/etc/passwd"}')
    (folder / "v3.mp4").write_bytes(clip(105))
    asked = []

    def run() -> VideoIntake:
        replica = made(watch_folder=str(folder), watch_s=0.05)
        add = replica.add

        async def count(facts: dict[str, Any]) -> Described:
            asked.append(facts["video_id"])
            return await add(facts)

        replica.add = count  # type: ignore[method-assign]

        async def steps() -> None:
            for _ in range(200):
                await asyncio.sleep(0.05)
                if len(rejected(replica)) == 5 and len(replica.store.additions(0)) == 1:
                    break
            await asyncio.sleep(0.3)  # nothing is tried again

        walk(replica, steps)
        return replica

    def rejected(replica: VideoIntake) -> dict[str, str]:
        from rayrec.serving.watching import WatchedFolder

        return {row["file"]: row["reason"] for row in WatchedFolder(str(folder), replica.workspace).rejects()}

    replica = run()
    (addition,) = replica.store.additions(0)
    facts = AddedVideo.from_json(addition.row).facts
    assert (facts["video_id"], facts["title"], facts["tags"], facts["author_id"]) == ("one", "By the sea", ["sea"], "ann")
    reasons = rejected(replica)
    assert reasons["bad.mp4"] == "not a video or sound file"
    assert "it seems to be in seconds: send 1763700000000" in reasons["early.mp4"]
    assert reasons["told.mp4"] == "unknown field 'titel'; did you mean 'title'?"
    assert "is in none of the folders" in reasons["sly.mp4"]
    assert reasons["v3.mp4"] == "video_id: 'v3' is the id of another video"
    assert sorted(asked) == ["bad", "one"]
    run()  # the next start
    assert sorted(asked) == ["bad", "one"]
