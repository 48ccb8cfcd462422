"""New videos on a real Ray head with HAProxy, as `rayrec serve` starts it. All tests use one head, in their order."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rayrec.config import Config, Uploads
from rayrec.serving.bundle import BundleError
from rayrec.serving.cluster import connection, processes
from rayrec.serving.cluster import service as cluster
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.serving.media_world import build_media_world, clip

VIDEO = {"Content-Type": "video/mp4"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    folder = tmp_path_factory.mktemp("served")
    watched = f"serving.uploads.watch_folder={folder / 'in'}"
    config = build_media_world(folder / "world", f"serving.port={processes.free_ports(1)[0]}", watched, "serving.refresh_s=0.2")
    (folder / "in").mkdir()
    yield config
    connection.stop(config)


@pytest.fixture(scope="module")
def service(config: Config) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.serve(config), timeout=60, trust_env=False) as client:
        yield client


def page(service: httpx.Client, user: str) -> dict[str, float]:
    """The score of each video that the user has not seen, on a page of all."""
    answer = service.post("/v1/recommend", json={"user_id": user, "k": 100})
    assert answer.status_code == 200, answer.text
    return {video["video_id"]: video["score"] for video in answer.json()["videos"] if video["why"] != "again"}


def test_an_uploaded_video_is_on_the_next_page(service: httpx.Client) -> None:
    query = {"video_id": "new", "title": "Clip of guitars", "tags": ["guitar", "song"]}
    answer = service.post("/v1/videos", content=clip(102), headers=VIDEO, params=query)
    assert answer.status_code == 201, answer.text
    assert "guitar" in answer.json()["video"]["topics"][0]["words"]
    assert 0 < page(service, "first")["new"] < 1
    assert service.get("/v1/videos/new/cover").content.startswith(b"\xff\xd8")
    assert service.get("/v1/videos/new/file", headers={"Range": "bytes=4-7"}).content == b"ftyp"
    assert service.post("/v1/videos", content=clip(102), headers=VIDEO, params=query).status_code == 200
    likes = {"events": [{"event_id": "1", "user_id": "fan", "video_id": "new", "kind": "click"}]}
    assert service.post("/v1/events", json=likes).json()["new"] == 1
    assert "new" not in page(service, "fan")


def test_bad_files_are_refused_with_the_reason_also_large_ones(service: httpx.Client) -> None:
    for body in (b"no film", b"no film" * 10**6):
        answer = service.post("/v1/videos", content=body, headers=VIDEO)
        assert (answer.status_code, answer.json()["error"]) == (422, "the file can't be used: not a video or sound file")
    assert service.post("/v1/videos", content=b"x" * (65 * 2**20), headers=VIDEO).status_code == 413


def test_a_file_in_the_watched_folder_is_added(service: httpx.Client, config: Config) -> None:
    assert config.serving.uploads is not None
    folder = Path(str(config.serving.uploads.watch_folder))
    (folder / "seen.json").write_text('{"title": "By the sea", "tags": ["sea"]}')
    (folder / "seen.mp4").write_bytes(clip(101))
    deadline = time.monotonic() + 60
    while service.get("/v1/videos/seen").status_code == 404 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert service.get("/v1/videos/seen").json()["title"] == "By the sea"


def test_a_ranker_that_is_new_is_given_them(service: httpx.Client, config: Config) -> None:
    address = connection.running(config)
    assert address is not None
    for process in address.processes():
        if "ServeReplica" in process.name() and "NeuralRanker" in process.name():
            process.kill()
    deadline = time.monotonic() + 120
    while service.get("/readyz").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.3)
    assert {"new", "seen"} <= page(service, "second").keys()


def test_they_are_there_after_a_swap(service: httpx.Client, config: Config) -> None:
    manifest, _ = run_stage(Workspace(config.workspace), load_stage("publish"), config, force=True)
    cluster.serve(config)
    assert service.get("/healthz").json()["bundle"] == manifest.version
    assert {"new", "seen"} <= page(service, "third").keys()


def test_a_bundle_that_can_not_describe_videos_is_refused_before_anything_starts(published: Config) -> None:
    uploads = published.serving.model_copy(update={"uploads": Uploads(), "port": processes.free_ports(1)[0]})
    with pytest.raises(BundleError, match=r"serving.uploads: bundle .* can't describe new videos"):
        cluster.serve(published.model_copy(update={"serving": uploads}))
