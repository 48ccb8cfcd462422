"""The client against a mock service: what it sends, and how it handles errors. Pauses do not take time."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rayrec.client import AsyncClient, Client, ServiceError
from rayrec.errors import RayrecError

Answers = list[httpx.Response | Exception]
Ask = Callable[[Callable[[Any], Any]], Any]


class Played:
    """Answers one after the other, keeps the requests, and time that passes only in pauses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: Answers = []
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []
        monkeypatch.setattr("rayrec.client.time.sleep", self.pauses.append)
        monkeypatch.setattr("rayrec.client.time.monotonic", lambda: sum(self.pauses))

        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        monkeypatch.setattr("rayrec.client.asyncio.sleep", sleep)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, played: Played) -> Ask:
    """Calls a method of either client: `ask(lambda service: service.user("ann"))`."""
    transport = httpx.MockTransport(played.answer)

    def sync(call: Callable[[Any], Any]) -> Any:
        with Client(key="k", transport=transport) as service:
            return call(service)

    async def other(call: Callable[[Any], Any]) -> Any:
        async with AsyncClient(key="k", transport=transport) as service:
            return await call(service)

    return sync if request.param == "sync" else lambda call: asyncio.run(other(call))


def test_ids_and_context_are_sent_as_their_canonical_text(ask: Ask, played: Played) -> None:
    played.answers += [httpx.Response(200, json={})] * 3
    ask(lambda service: service.recommend(7, exclude=[8.0], context={"wifi": np.True_, "zip": "02134", "size": 1.0, "cell": None}))
    ask(lambda service: service.events([{"event_id": "1.0", "user_id": 7.0, "video_id": np.int64(8), "kind": "click"}]))
    ask(lambda service: service.user(7.0))
    page, events = (json.loads(request.content) for request in played.requests[:2])
    assert (page["user_id"], page["exclude"]) == ("7", ["8"])
    assert page["context"] == {"wifi": "true", "zip": "02134", "size": "1", "cell": None}
    assert events["events"] == [{"event_id": "1.0", "user_id": "7", "video_id": "8", "kind": "click"}]
    assert played.requests[2].url.path == "/v1/users/7"


def busy(status: int = 503, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": "busy"}, headers={"Retry-After": "2"} | headers)


def ok(**answer: Any) -> httpx.Response:
    return httpx.Response(200, json=answer)


def test_each_method_is_one_request(played: Played, ask: Ask) -> None:
    calls: list[tuple[Callable[[Any], Any], str, Any]] = [
        (
            lambda service: service.recommend("ann", 3, exclude=["v1"], context={"device": "phone"}, score="click * like"),
            "POST /v1/recommend",
            {"user_id": "ann", "k": 3, "exclude": ["v1"], "blocked_authors": [], "context": {"device": "phone"}, "debug": False}
            | {"score": "click * like"},
        ),
        (lambda service: service.events([{"event_id": "e"}]), "POST /v1/events", {"events": [{"event_id": "e"}]}),
        (lambda service: service.similar("a/b", k=4), "GET /v1/similar/a%2Fb?k=4", None),
        (
            lambda service: service.put_users([{"user_id": 7, "fields": {"age": 31}}]),
            "POST /v1/users",
            {"users": [{"user_id": "7", "fields": {"age": 31}}]},
        ),
        (
            lambda service: service.add_videos([{"video_id": 7.0, "tags": ["a"], "author_id": None}, {"uri": "b"}], wait=False),
            "POST /v1/videos?wait=false",
            [{"video_id": "7", "tags": ["a"]}, {"uri": "b"}],
        ),
        (lambda service: service.user("ann smith"), "GET /v1/users/ann%20smith", None),
        (lambda service: service.forget("ann"), "DELETE /v1/users/ann", None),
    ]
    for call, line, body in calls:
        played.answers = [ok(fine=True)]
        assert ask(call) == {"fine": True}
        request = played.requests[-1]
        assert f"{request.method} {request.url.raw_path.decode()}" == line
        assert (json.loads(request.content) if request.content else None) == body
        assert request.headers["Authorization"] == "Bearer k"


def test_a_video_is_sent_as_a_file_or_named(played: Played, ask: Ask, tmp_path: Path) -> None:
    played.answers = [ok(status="ready")] * 6
    path = tmp_path / "clip.webm"
    path.write_bytes(b"film")
    ask(lambda service: service.add_video(path, title="Rain & wind", tags=["wet", "a b"], video_id=7.0, published_at=5))
    ask(lambda service: service.add_video(b"film", wait=False, author_id=None))
    ask(lambda service: service.add_video(uri="in/clip.mp4", tags=["wet"], author_id=8))
    ask(lambda service: service.video_status("a/b"))
    file, raw, named, status = played.requests
    assert (file.method, file.url.path, file.content, file.headers["Content-Type"]) == ("POST", "/v1/videos", b"film", "video/webm")
    query = [("title", "Rain & wind"), ("video_id", "7"), ("published_at", "5"), ("tags", "wet"), ("tags", "a b")]
    assert sorted(file.url.params.multi_items()) == sorted(query)
    assert raw.headers["Content-Type"] == "application/octet-stream"
    assert raw.url.params.multi_items() == [("wait", "false")]
    assert json.loads(named.content) == {"uri": "in/clip.mp4", "tags": ["wet"], "author_id": "8"}
    assert status.url.raw_path == b"/v1/videos/a%2Fb/status"
    ask(lambda service: service.add_video(video_id=7, title="no file"))
    assert json.loads(played.requests[-1].content) == {"video_id": "7", "title": "no file"}


def test_a_busy_service_is_asked_again_when_it_says(played: Played, ask: Ask) -> None:
    played.answers = [busy(), httpx.ConnectError("refused"), busy(429), ok(received=1)]
    assert ask(lambda service: service.events([{"user_id": "ann"}])) == {"received": 1}
    first, second, third = played.pauses
    assert 2.05 <= first <= 2.1
    assert 0.1 <= second <= 0.2
    assert 2.2 <= third <= 2.4
    assert len({request.headers["X-Request-Id"] for request in played.requests}) == 1
    ids = [body["events"][0]["event_id"] for body in played.bodies]
    assert len(ids) == 4
    assert len(set(ids)) == 1


def test_retry_after_may_be_a_date(played: Played, ask: Ask) -> None:
    played.answers = [busy(**{"Retry-After": formatdate(time.time() + 5, usegmt=True)}), busy(**{"Retry-After": "soon"}), ok()]
    ask(lambda service: service.user("ann"))
    assert 3 < played.pauses[0] < 6
    assert played.pauses[1] < 1


def test_patience_ends(played: Played, ask: Ask) -> None:
    played.answers = [busy() for _ in range(50)]
    with pytest.raises(ServiceError, match="503: busy") as problem:
        ask(lambda service: service.user("ann"))
    assert problem.value.status == 503
    assert sum(played.pauses) < 30 < sum(played.pauses) + 10
    played.answers = [httpx.ReadTimeout("slow") for _ in range(50)]
    with pytest.raises(ServiceError, match="can't be reached: ReadTimeout") as problem:
        ask(lambda service: service.user("ann"))
    assert problem.value.status == 0
    assert isinstance(problem.value, RayrecError)


def test_what_is_refused_is_not_sent_again(played: Played, ask: Ask) -> None:
    for answer, sentence in (
        (httpx.Response(422, json={"error": "k: too many"}), "422: k: too many"),
        (httpx.Response(500, json={"error": "failed"}), "500: failed"),
        (httpx.Response(200, text="<html>"), "200: the answer is not JSON: '<html>'"),
    ):
        played.answers = [answer]
        with pytest.raises(ServiceError, match=sentence):
            ask(lambda service: service.user("ann"))
    assert played.pauses == []


def test_the_loopback_is_not_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for url, proxied in (("http://127.0.0.1:8000", 0), ("http://localhost", 0), ("http://[::1]:80", 0), ("http://example.org", 1)):
        with Client(url) as service:
            assert len(service._http._mounts) == proxied, url


def test_it_needs_httpx_alone() -> None:
    heavy = "ray torch pandas numpy pyarrow fastapi pydantic rayrec.config rayrec.tables"
    code = f"import rayrec.client, sys; print([name for name in '{heavy}'.split() if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_it_is_imported_hardly_later_than_httpx() -> None:
    code = "import time, httpx; start = time.process_time(); import rayrec.client; print(time.process_time() - start)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(3)
    ]
    assert min(seconds) < 0.15  # of CPU


def test_a_search_sends_words_as_json_and_media_as_they_are(ask: Ask, played: Played) -> None:
    played.answers += [httpx.Response(200, json={"videos": []})] * 3
    ask(lambda service: service.search("a song", k=3, author=7))
    ask(lambda service: service.search(picture=b"GIF", class_="music", min_score=0.0))
    ask(lambda service: service.search(sound=b"RIFF", since=5))
    words, picture, sound = played.requests
    filters = {"class": None, "author": "7", "since": None}
    assert json.loads(words.content) == {"text": "a song", "filters": filters, "k": 3, "min_score": None}
    assert (picture.content, picture.headers["content-type"]) == (b"GIF", "image/*")
    assert dict(picture.url.params) == {"class": "music", "k": "10", "min_score": "0.0"}
    assert (sound.content, sound.headers["content-type"]) == (b"RIFF", "audio/*")
    assert dict(sound.url.params) == {"since": "5", "k": "10"}
    with pytest.raises(ValueError, match="either a text, a picture or a sound"):
        ask(lambda service: service.search("a song", picture=b"GIF"))
