"""POST /v1/videos over a small published workspace, without Ray: what is asked for, what is refused, and what is done once."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayrec.config import Config, Serving
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.inbox import INTERRUPTED_MS, Inbox
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import OverloadedError, Recommender, now_ms
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.state.store import Upload
from rayrec.workspace.versions import Workspace
from tests.serving.http.helpers import BUSY, FIRST, Listen, click, error
from tests.serving.http.upload_desk import Desk

VIDEO = {"Content-Type": "video/mp4"}
SECONDS = "published_at: must be a time of 1990 or later in UTC milliseconds; it seems to be in seconds: send 1763700000000 (got"
LONG_AGO = 800_000_000_000  # UTC ms


@pytest.fixture
def desk(recommender: Recommender, published: Config, tmp_path: Path) -> Desk:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "named.mp4").write_bytes(b"film")
    return Desk(recommender, published, folder=str(tmp_path / "uploads"), media_roots=[str(tmp_path / "media")])


@pytest.fixture
def client(desk: Desk, listen: Listen) -> httpx.Client:
    return listen(desk.api())


def kept(tmp_path: Path) -> list[str]:
    return [path.name for path in sorted((tmp_path / "uploads").glob("*"))]


def test_an_uploaded_file_is_in_the_next_page(client: httpx.Client, desk: Desk, tmp_path: Path) -> None:
    query = {"title": "Rain", "tags": ["wet", "sea"], "author_id": "1.0", "primary_class": "nature", "video_id": "a/b"}
    answer = client.post("/v1/videos", content=b"film", headers={"Content-Type": "video/webm"}, params=query)
    assert answer.status_code == 201, answer.text
    video = answer.json()["video"]
    assert (answer.json()["status"], answer.json()["fault"]) == ("ready", None)
    assert (video["video_id"], video["title"], video["tags"], video["author_id"]) == ("a/b", "Rain", ["wet", "sea"], "1")
    assert video["topics"] == [{"topic": 3, "words": ["cake", "sugar"], "similarity": 0.9}]
    assert kept(tmp_path) == [desk.asked[0]["uri"].rpartition("/")[2]]
    assert kept(tmp_path)[0].endswith(".webm")
    page = client.post("/v1/recommend", json={"user_id": "new", "k": 100}).json()["videos"]
    assert "a/b" in {each["video_id"] for each in page}
    assert client.get("/v1/videos/a%2Fb").json()["title"] == "Rain"
    assert client.get("/v1/videos/a%2Fb/file").content == b"film"
    assert client.get("/v1/videos/a%2Fb/status").json() == {"video_id": "a/b", "status": "ready", "error": None}
    assert client.post("/v1/events", json={"events": [click(1, video_id="a/b")]}).is_success
    assert desk.told == 1
    assert desk.metrics.value("uploads_total", outcome="added") == 1


def test_sending_it_again_changes_nothing(client: httpx.Client, desk: Desk, tmp_path: Path) -> None:
    first = client.post("/v1/videos", content=b"film", headers=VIDEO, params={"title": "Rain"}).json()
    assert first["video_id"].startswith("v-")
    again = client.post("/v1/videos", content=b"film", headers={"Content-Type": "application/octet-stream"}, params={"title": "No"})
    assert (again.status_code, again.json()["video_id"], again.json()["video"]["title"]) == (200, first["video_id"], "Rain")
    assert (len(desk.asked), len(kept(tmp_path))) == (1, 1)
    taken = client.post("/v1/videos", content=b"another", headers=VIDEO, params={"video_id": first["video_id"]})
    assert f"{first['video_id']!r} is the id of another video" in error(taken, 409)
    assert "is the id of another video" in error(
        client.post("/v1/videos", content=b"x", headers=VIDEO, params={"video_id": "v7"}), 409
    )
    assert len(kept(tmp_path)) == 1


def test_a_file_that_the_service_may_read_is_named(client: httpx.Client, desk: Desk, tmp_path: Path) -> None:
    answer = client.post("/v1/videos", json={"uri": "named.mp4", "video_id": "named", "tags": ["x"], "published_at": LONG_AGO})
    assert answer.status_code == 201, answer.text
    assert desk.asked[0]["uri"] == str((tmp_path / "media" / "named.mp4").resolve())
    assert (desk.asked[0]["published_at"], kept(tmp_path)) == (LONG_AGO, [])
    assert client.post("/v1/videos", json={"uri": str(tmp_path / "media" / "named.mp4"), "video_id": "named"}).status_code == 200
    for body in ({"uri": "/etc/passwd"}, {"uri": "named.mp4", "cover_uri": "http://169.254.169.254/x"}):
        assert "is in none of the folders that serving.uploads.media_roots lists" in error(
            client.post("/v1/videos", json=body), 422
        )
    assert len(desk.asked) == 1


@pytest.mark.parametrize(
    ("request_", "status", "sentence"),
    [
        ({"content": b"bad film", "headers": VIDEO}, 422, "the file can't be used: not a video or sound file"),
        ({"content": b"", "headers": VIDEO}, 422, "the file is empty"),
        ({"content": b"x"}, 415, "send the body with a Content-Type of video/*, audio/*"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 415, "not multipart/form-data"),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "not text/plain"),
        ({"json": {"title": "no file"}}, 422, "uri is missing: name a file"),
        ({"json": {"uri": "named.mp4", "titel": "x"}}, 422, "unknown field 'titel'; did you mean 'title'?"),
        ({"json": "named.mp4"}, 422, "the body must be a JSON object, or a list of them"),
        ({"json": ["named.mp4"]}, 422, "none of the videos can be taken; the first: the body: must be an object with names"),
        ({"json": []}, 422, "the body must be a list of 1 to 100 videos, not of 0"),
        ({"json": [{}] * 101}, 422, "not of 101"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "can't be read as JSON"),
        ({"content": b"x", "headers": VIDEO, "params": {"published_at": "soon"}}, 422, "published_at"),
        ({"content": b"x", "headers": VIDEO, "params": {"published_at": 1763700000}}, 422, SECONDS),
        ({"json": {"uri": "named.mp4", "published_at": 1763700000}}, 422, SECONDS),
        ({"json": {"uri": "named.mp4", "published_at": 1763700000 * 10**6}}, 422, "in microseconds: send 1763700000000"),
        ({"json": {"uri": "named.mp4", "published_at": 20240131120000}}, 422, "published_at: must be at most 366 days ahead"),
        ({"content": b"x", "headers": VIDEO, "params": {"autor_id": "bob"}}, 422, "unknown name 'autor_id' in the query"),
        ({"content": b"x", "headers": VIDEO, "params": {"video_id": "x" * 600}}, 422, "video_id"),
        ({"content": b"x", "headers": VIDEO, "params": {"tags": [""]}}, 422, "tags.0"),
        ({"content": b"x" * 2000, "headers": VIDEO}, 413, "larger than the 1,000 bytes that /v1/videos accepts"),
    ],
)
def test_what_can_not_be_added_is_refused_with_a_sentence(
    recommender: Recommender,
    published: Config,
    listen: Listen,
    tmp_path: Path,
    request_: dict[str, Any],
    status: int,
    sentence: str,
) -> None:
    desk = Desk(recommender, published, folder=str(tmp_path / "uploads"), media_roots=[str(tmp_path)], max_bytes=1000)
    assert sentence in error(listen(desk.api()).post("/v1/videos", **request_), status)
    assert kept(tmp_path) == []  # a rejected file is not kept
    assert recommender.store.additions(0) == []


def test_a_list_of_a_hundred_long_descriptions_fits_and_a_larger_body_is_refused(
    client: httpx.Client, recommender: Recommender
) -> None:
    videos = [{"video_id": f"long {number}", "title": "x" * 10_000} for number in range(100)]  # 1,000,000 bytes of titles
    answer = client.post("/v1/videos", json=videos, params={"wait": "false"})
    assert answer.status_code == 200, answer.text
    ids, deadline = {video["video_id"] for video in videos}, time.monotonic() + 30
    while {each.video_id for each in recommender.store.additions(0)} != ids:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    body, headers = b" " * 2**20, {"Content-Type": "application/json"}
    assert "can't be read as JSON" in error(client.post("/v1/videos", content=body, headers=headers), 400)
    refused = client.post("/v1/videos", content=body + b" ", headers=headers)
    assert "larger than the 1,048,576 bytes that /v1/videos accepts" in error(refused, 413)


def test_a_large_file_arrives_whole_and_one_that_breaks_off_is_not_kept(
    client: httpx.Client, desk: Desk, tmp_path: Path, published: Config
) -> None:
    film = b"film" * 5 * 2**20
    assert client.post("/v1/videos", content=film, headers=VIDEO).status_code == 201
    assert [path.stat().st_size for path in (tmp_path / "uploads").iterdir()] == [len(film)]

    def breaks_off() -> Iterator[bytes]:
        yield b"film, first part"
        raise RuntimeError("the line is dead")

    with pytest.raises(RuntimeError):
        client.post("/v1/videos", content=breaks_off(), headers=VIDEO)
    assert client.get("/healthz").is_success
    assert (len(desk.asked), len(kept(tmp_path))) == (1, 1)


def test_what_could_not_be_read_of_a_video_is_said(client: httpx.Client) -> None:
    assert client.post("/v1/videos", content=b"mute film", headers=VIDEO).json()["fault"] == "sound: nothing could be decoded"


def test_those_who_do_not_wait_ask_for_the_status(client: httpx.Client, recommender: Recommender) -> None:
    answer = client.post("/v1/videos", content=b"film", headers=VIDEO, params={"wait": "false", "video_id": "later"})
    assert (answer.status_code, answer.json()["status"], answer.json()["video"]) == (202, "waiting", None)
    while (found := client.get("/v1/videos/later/status").json())["status"] == "waiting":
        pass
    assert found["status"] == "ready"
    client.post("/v1/videos", content=b"bad", headers=VIDEO, params={"wait": "false", "video_id": "bad"})
    while (found := client.get("/v1/videos/bad/status").json())["status"] == "waiting":
        pass
    assert found == {"video_id": "bad", "status": "rejected", "error": "not a video or sound file"}
    recommender.store.note_upload("lost", Upload(now_ms() - 2 * INTERRUPTED_MS, None))
    assert "interrupted; send the video again" in client.get("/v1/videos/lost/status").json()["error"]
    assert "no video 'nowhere' was sent" in error(client.get("/v1/videos/nowhere/status"), 404)


def test_a_busy_service_says_so(client: httpx.Client, desk: Desk, tmp_path: Path) -> None:
    async def busy() -> None:
        raise OverloadedError("too many videos wait")

    desk.gate = busy
    answer = client.post("/v1/videos", content=b"film", headers=VIDEO)
    assert (error(answer, 503), answer.headers["retry-after"]) == (BUSY, "1")
    desk.gate = lambda: None
    assert client.post("/v1/videos", content=b"film", headers=VIDEO).status_code == 201


def test_the_file_of_an_upload_that_failed_is_not_kept(client: httpx.Client, desk: Desk, tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("a fault of ours")

    desk.gate = fail
    error(client.post("/v1/videos", content=b"film", headers=VIDEO), 500)
    assert kept(tmp_path) == []


def test_files_that_differ_in_their_ending_are_other_videos_unless_they_are_uploads(
    client: httpx.Client, desk: Desk, tmp_path: Path
) -> None:
    (tmp_path / "media" / "named.mkv").write_bytes(b"another film")
    named = {"video_id": "n", "uri": str(tmp_path / "media" / "named.mp4")}
    assert client.post("/v1/videos", json=named).status_code == 201
    assert client.post("/v1/videos", json=named).status_code == 200
    error(client.post("/v1/videos", json=named | {"uri": str(tmp_path / "media" / "named.mkv")}), 409)


def test_no_more_files_are_read_at_a_time_than_is_set(recommender: Recommender, published: Config, tmp_path: Path) -> None:
    desk = Desk(recommender, published, folder=str(tmp_path / "uploads"), max_at_once=2)

    async def walk() -> None:
        gate = asyncio.Event()
        desk.gate = gate.wait
        async with httpx.AsyncClient(transport=httpx.ASGITransport(desk.api()), base_url="http://localhost") as client:

            def send(number: int) -> Any:
                return client.post("/v1/videos", content=f"film {number}".encode(), headers=VIDEO)

            waiting = [asyncio.create_task(send(number)) for number in range(2)]
            while len(desk.asked) < 2:
                await asyncio.sleep(0.001)
            refused = await send(3)
            assert (error(refused, 503), refused.headers["retry-after"]) == (
                "too many files are being sent; try again in a second",
                "1",
            )
            assert (await client.post("/v1/recommend", json={"user_id": "u1"})).status_code == 200
            gate.set()
            assert [(await each).status_code for each in waiting] == [201, 201]
            assert (await send(3)).status_code == 201

    asyncio.run(walk())


def test_two_who_send_one_id_at_the_same_time_do_not_both_win(desk: Desk) -> None:
    async def walk() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(desk.api()), base_url="http://localhost") as client:
            desk.gate = lambda: asyncio.sleep(0.05)
            sent = [
                client.post("/v1/videos", content=each, headers=VIDEO, params={"video_id": "n"}) for each in (b"film", b"other")
            ]
            return sorted(answer.status_code for answer in await asyncio.gather(*sent))

    assert asyncio.run(walk()) == [201, 409]
    assert len(desk.recommender.store.additions(0)) == 1


def test_keys_are_asked_for_and_without_uploads_no_videos_are_taken(
    desk: Desk, recommender: Recommender, published: Config, listen: Listen
) -> None:
    client = listen(desk.api(Keys(["first"])))
    assert "API keys" in error(client.post("/v1/videos", content=b"film", headers=VIDEO), 401)
    assert client.post("/v1/videos", content=b"film", headers=VIDEO | FIRST).status_code == 201


@pytest.fixture
def without_files(recommender: Recommender, published: Config, listen: Listen) -> httpx.Client:
    """A service without `serving.uploads`."""

    async def tell() -> None:
        pass

    arms = lambda: Arms(recommender)  # noqa: E731
    inbox = Inbox(published, Workspace(published.workspace), recommender.store, arms, None, tell)
    return listen(create_api(arms, Serving(), Keys(), LocalMetrics(), list, inbox))


def test_a_service_without_uploads_takes_no_files(without_files: httpx.Client, tmp_path: Path) -> None:
    for call in (
        {"content": b"film", "headers": VIDEO},
        {"json": {"uri": "named.mp4"}},
        {"json": {"video_id": "x", "cover_uri": "x"}},
    ):
        assert "serving.uploads is not set" in error(without_files.post("/v1/videos", **call), 404)  # type: ignore[arg-type]


def test_a_video_without_a_file_is_in_the_next_page(without_files: httpx.Client, client: httpx.Client, desk: Desk) -> None:
    for service, name in ((without_files, "told"), (client, "placed")):
        body = {"video_id": name, "title": "Rain", "tags": ["wet"], "primary_class": "nature", "author_id": "bob"}
        answer = service.post("/v1/videos", json=body)
        assert answer.status_code == 201, answer.text
        assert (answer.json()["video"]["title"], answer.json()["video"]["tags"]) == ("Rain", ["wet"])
        page = service.post("/v1/recommend", json={"user_id": f"new to {name}", "k": 100}).json()["videos"]
        assert name in {each["video_id"] for each in page}
        assert service.post("/v1/videos", json=body | {"title": "Snow"}).json()["video"]["title"] == "Rain"
        assert service.get(f"/v1/videos/{name}/status").json()["status"] == "ready"
        assert error(service.get(f"/v1/videos/{name}/file"), 404)
    assert [facts["video_id"] for facts in desk.asked] == ["placed"]  # with uploads, the networks of titles see it
    assert client.get("/v1/videos/told").json()["topics"] == []
    assert client.post("/v1/videos", json={"uri": "named.mp4", "video_id": "film"}).status_code == 201
    assert "is the id of another video" in error(client.post("/v1/videos", json={"video_id": "film", "title": "x"}), 409)


@pytest.mark.parametrize(
    "body",
    [{"title": "no id"}, {"video_id": "bare", "title": "  "}, {"video_id": "bare"}, {"video_id": "bare", "author_id": "bob"}],
)
def test_a_video_of_which_too_little_is_known_is_refused(without_files: httpx.Client, body: dict[str, str]) -> None:
    assert "for a video without a file, give its video_id and a title, tags or a class" in error(
        without_files.post("/v1/videos", json=body), 422
    )


def test_a_list_of_videos_is_taken_but_for_those_that_are_wrong(
    without_files: httpx.Client, client: httpx.Client, desk: Desk, recommender: Recommender
) -> None:
    for service, name in ((without_files, "a"), (client, "b")):
        videos = [
            {"video_id": f"{name}1", "title": "Rain", "tags": ["wet"]},
            {"video_id": f"{name}2", "tags": [""]},
            {"video_id": f"{name}3"},
            {"video_id": f"{name}4", "primary_class": "nature"},
            {"video_id": f"{name}1", "title": "Snow"},
            "no object",
            {"video_id": f"{name}5", "title": "Sun", "published_at": 1763700000},
        ]
        told = desk.told
        answer = service.post("/v1/videos", json=videos)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["received"], found["new"]) == (7, 2)
        assert [each["status"] for each in found["videos"]] == [
            "ready",
            "refused",
            "refused",
            "ready",
            "ready",
            "refused",
            "refused",
        ]
        assert [each["video_id"] for each in found["videos"]] == [f"{name}{n}" for n in (1, 2, 3, 4, 1)] + [None, f"{name}5"]
        assert found["videos"][1]["error"].startswith("tags.0: must not be empty")
        assert "give its video_id and a title" in found["videos"][2]["error"]
        assert "in seconds: send 1763700000000" in found["videos"][6]["error"]
        page = service.post("/v1/recommend", json={"user_id": f"new to {name}", "k": 100}).json()["videos"]
        assert {video["video_id"] for video in page} >= {f"{name}1", f"{name}4"}
        assert service.get(f"/v1/videos/{name}1").json()["title"] == "Rain"
        again = service.post("/v1/videos", json=[videos[0], videos[3]]).json()
        assert (again["new"], [each["status"] for each in again["videos"]]) == (0, ["ready", "ready"])
    assert desk.told - told <= 3  # not for each video
    assert desk.metrics.value("uploads_total", outcome="added") == 2


def test_a_list_may_name_files_and_not_wait(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "media" / "bad.mp4").write_bytes(b"bad")
    rows = [{"video_id": name, "uri": uri} for name, uri in (("named", "named.mp4"), ("bad", "bad.mp4"), ("x", "/etc/passwd"))]
    found = client.post("/v1/videos?wait=false&author_id=bob", json=rows).json()["videos"]
    assert [each["status"] for each in found] == ["waiting", "waiting", "refused"]
    assert "serving.uploads.media_roots" in found[2]["error"]
    for video_id, status in (("named", "ready"), ("bad", "rejected")):
        while (known := client.get(f"/v1/videos/{video_id}/status").json())["status"] == "waiting":
            pass
        assert known["status"] == status
    assert client.get("/v1/videos/named").json()["author_id"] == "bob"
    found = client.post("/v1/videos", json=[rows[0], rows[1]]).json()["videos"]
    assert [(each["status"], each["error"]) for each in found] == [
        ("ready", None),
        ("refused", "the file can't be used: not a video or sound file"),
    ]


def test_a_list_none_of_which_can_be_taken_is_an_error(client: httpx.Client, desk: Desk) -> None:
    async def busy() -> None:
        raise OverloadedError("too many videos wait")

    desk.gate = busy
    rows = [{"video_id": "x", "title": "Rain"}, {"video_id": "y", "title": "Sun"}]
    assert error(client.post("/v1/videos", json=rows), 503) == BUSY
    desk.gate = lambda: None
    taken = client.post("/v1/videos", json=[{"video_id": "v7", "uri": "named.mp4"}, {"uri": "/etc/none"}])
    assert "none of the videos can be taken; the first: video_id: 'v7' is the id of another video" in error(taken, 409)
