"""Who may ask, how much and how long; and what is told of each request."""

import asyncio
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from rayrec.config import ConfigError, Serving
from rayrec.serving.http import auth, request_log
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Guard, Keys, TokenBuckets
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import Recommender
from rayrec.serving.rollout.arms import Arms

Listen = Callable[[FastAPI], httpx.Client]
FIRST = {"Authorization": "Bearer first"}


def api_of(recommender: Recommender, keys: Keys | None = None, **settings: Any) -> FastAPI:
    return create_api(lambda: Arms(recommender), Serving(**settings), keys or Keys(), LocalMetrics(), list)


def error(response: httpx.Response, status: int) -> str:
    assert (response.status_code, list(response.json())) == (status, ["error"])
    return response.json()["error"]


def in_process(api: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost")


# --- who ---


def test_without_keys_only_this_machine_is_answered(recommender: Recommender, listen: Listen) -> None:
    client = listen(api_of(recommender))
    for host in ("localhost", "localhost:8000", "127.0.0.1:9", "[::1]:8000"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1:8000", ""):
        assert "answers only as localhost" in error(client.get("/healthz", headers={"Host": host}), 421)


def test_with_keys_every_call_needs_one(recommender: Recommender, listen: Listen) -> None:
    client = listen(api_of(recommender, Keys(["first", "second"])))
    client.headers["Host"] = "service.example"
    for wrong in ({}, {"Authorization": "Bearer third"}, {"Authorization": "first"}, {"Authorization": "Basic first"}):
        response = client.post("/v1/recommend", json={"user_id": "u1"}, headers=wrong)
        assert "Authorization: Bearer KEY" in error(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"
    for key in ("first", "second"):
        assert client.post("/v1/recommend", json={"user_id": "u1"}, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    for method, path in (
        ("GET", "/v1/videos/v6/cover"),
        ("GET", "/v1/dashboard"),
        ("DELETE", "/v1/users/u1"),
        ("PUT", "/v1/nothing"),
    ):
        assert client.request(method, path).status_code == 401
    for path in ("/", "/page/feed.js", "/healthz", "/docs"):
        assert client.get(path).status_code == 200
    assert client.get("/openapi.json").json()["paths"]["/v1/topics"]["get"]["security"] == [{"key": []}]


def test_keys_come_from_the_environment() -> None:
    assert not Keys.of({})
    assert Keys.of({}).fingerprint() == ""
    keys = Keys.of({"RAYREC_API_KEYS": " a, b,,"})
    assert keys
    assert [keys.caller(f"Bearer {key}") is not None for key in ("a", "b", "", "a,b", " a")] == [True, True, False, False, True]
    assert auth.api_keys({"RAYREC_API_KEYS": " a, b,,"}) == ["a", "b"]


def test_keys_of_a_file_rotate_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.serving.http.auth.FILE_CHECKED_S", 0)
    file = tmp_path / "keys"
    file.write_text("old\n\n")
    environment = {"RAYREC_API_KEYS": "fixed", "RAYREC_API_KEYS_FILE": str(file)}
    keys = Keys.of(environment)
    fingerprint = keys.fingerprint()
    assert auth.api_keys(environment) == ["fixed", "old"]

    def known(*names: str) -> list[bool]:
        return [keys.caller(f"Bearer {name}") is not None for name in names]

    assert known("fixed", "old", "new") == [True, True, False]
    file.write_text("old\nnew\n")
    assert known("fixed", "old", "new") == [True, True, True]
    file.write_text("new\n")
    assert known("fixed", "old", "new") == [True, False, True]
    file.unlink()
    assert known("fixed", "old", "new") == [True, False, True]
    file.write_text("")
    assert known("fixed", "old", "new", "") == [True, False, False, False]
    assert keys
    assert keys.fingerprint() == fingerprint
    for content in ("", None):
        file.write_text(content) if content is not None else file.unlink()
        with pytest.raises(ConfigError, match=r"RAYREC_API_KEYS_FILE: .* one a line"):
            Keys.of(environment)


def test_an_open_service_without_keys_is_refused() -> None:
    auth.check_exposure("127.0.0.1", Keys())
    auth.check_exposure("localhost", Keys())
    auth.check_exposure("0.0.0.0", Keys(["key"]))
    for address in ("0.0.0.0", "192.0.2.1", "::", "example.org"):
        with pytest.raises(ConfigError, match="set RAYREC_API_KEYS"):
            auth.check_exposure(address, Keys())


# --- how much ---


def test_a_bucket_gives_a_rate_and_a_second_of_it_at_once() -> None:
    now = 0.0
    buckets = TokenBuckets(2.0, lambda: now)
    assert [buckets.wait("a") for _ in range(3)] == [0.0, 0.0, 0.5]
    assert buckets.wait("b") == 0.0
    now = 0.25
    assert buckets.wait("a") == pytest.approx(0.25)  # asking in vain costs nothing
    now = 0.5
    assert [buckets.wait("a") for _ in range(2)] == [0.0, 0.5]
    slow = TokenBuckets(0.1, lambda: now)
    assert [slow.wait("a") for _ in range(2)] == [0.0, pytest.approx(10)]


def test_only_so_many_callers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.serving.http.auth.MAX_CALLERS", 3)
    buckets = TokenBuckets(1.0, lambda: 0.0)
    for caller in "abcad":
        buckets.wait(caller)
    assert list(buckets._buckets) == ["c", "a", "d"]


def test_a_caller_that_asks_too_often_is_told_when_to_come_back(recommender: Recommender, listen: Listen) -> None:
    client = listen(api_of(recommender, Keys(["first", "second"]), requests_per_s=2))
    answers = [client.get("/v1/topics", headers=FIRST) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 429]
    assert "more than 2 requests a second (serving.requests_per_s)" in error(answers[-1], 429)
    assert answers[-1].headers["retry-after"] == "1"
    assert client.get("/v1/topics", headers={"Authorization": "Bearer second"}).status_code == 200
    assert [client.get("/healthz").status_code for _ in range(5)] == [200] * 5


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def test_more_than_can_be_done_at_once_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.serving.http.auth.MAX_AT_ONCE", 3)

    async def go() -> None:
        gate = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await gate.wait()
            await ok(scope, receive, send)

        guarded = Guard(app, Keys(), {}, None, 5)
        async with in_process(guarded) as client:
            waiting = [asyncio.create_task(client.get("/v1/x")) for _ in range(3)]
            while guarded.at_once < 3:
                await asyncio.sleep(0)
            refused = await client.get("/v1/x")
            assert "more to do than it can" in error(refused, 503)
            assert refused.headers["retry-after"] == "1"
            gate.set()
            assert [(await answer).status_code for answer in waiting] == [200] * 3
            assert guarded.at_once == 0

    asyncio.run(go())


# --- how long ---


def test_a_request_that_takes_too_long_is_given_up(recommender: Recommender, listen: Listen) -> None:
    given_up = []

    async def rank(*call: object) -> np.ndarray:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            given_up.append(True)
            raise
        raise AssertionError

    recommender.rank = rank
    client = listen(api_of(recommender, timeout_s=0.2))
    started = time.monotonic()
    answer = client.post("/v1/recommend", json={"user_id": "u1"})
    assert time.monotonic() - started < 2
    assert error(answer, 503) == "this took more than 0.2 s; try again in a second"
    assert answer.headers["retry-after"] == "1"
    assert given_up == [True]
    assert client.get("/v1/topics").status_code == 200


def test_a_body_that_does_not_arrive_is_given_up_and_a_long_answer_is_not() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"be", "more_body": True})
        await asyncio.sleep(0.15)
        await send({"type": "http.response.body", "body": b"gin"})

    async def dribble() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async def go() -> None:
        guarded = Guard(app, Keys(), {}, None, 0.05)
        async with in_process(guarded) as client:
            assert (await client.get("/v1/x")).text == "begin"
            late = await client.post("/v1/x", content=dribble())
            assert error(late, 408) == "the body did not arrive within 0.05 s"
        assert guarded.at_once == 0

    asyncio.run(go())


def test_a_timeout_of_the_application_itself_is_not_the_guard_s() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise TimeoutError("inside")

    async def go() -> None:
        async with in_process(request_log.RequestLogMiddleware(Guard(app, Keys(), {}, None, 5), LocalMetrics())) as client:
            assert "its log says why" in error(await client.get("/v1/x"), 500)

    asyncio.run(go())


# --- what is told ---


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What is logged, line by line."""
    ours = logging.getLogger("rayrec")
    before, stream = (ours.handlers, ours.propagate, ours.level), io.StringIO()
    monkeypatch.setattr("sys.__stderr__", stream)
    request_log.log_as_json()
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    ours.handlers, ours.propagate, ours.level = before


def test_requests_are_logged_by_route_with_their_ids_and_no_secrets(
    recommender: Recommender, listen: Listen, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    client = listen(api_of(recommender, Keys(["first"])))
    answer = client.get("/v1/users/ann-smith", headers=FIRST | {"X-Request-Id": "trace-7"})
    assert answer.headers["x-request-id"] == "trace-7"
    made = client.get("/v1/users/ann-smith", headers={"X-Request-Id": 'x" injected', "Authorization": "Bearer wrong-key"})
    assert len(made.headers["x-request-id"]) == 32
    client.get("/healthz")
    first, second = lines()
    assert (first["request_id"], first["route"], first["status"]) == ("trace-7", "/v1/users/{user_id}", 200)
    assert first["milliseconds"] > 0
    assert first["caller"] == Keys(["first"]).caller("Bearer first")
    assert (second["status"], second["request_id"]) == (401, made.headers["x-request-id"])
    for secret in ("ann-smith", "first", "wrong-key"):
        assert secret not in json.dumps([first, second])


def test_a_failure_is_in_the_log_and_not_in_the_answer(
    recommender: Recommender, listen: Listen, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    async def rank(*call: object) -> np.ndarray:
        raise RuntimeError("a detail")

    recommender.rank = rank
    answer = listen(api_of(recommender)).post("/v1/recommend", json={"user_id": "u1"}, headers={"X-Request-Id": "r1"})
    assert error(answer, 500) == "the service failed on this request; its log says why (request r1)"
    failed = lines()[0]
    assert (failed["level"], failed["request_id"]) == ("error", "r1")
    assert "RuntimeError: a detail" in failed["trace"]


def test_answers_are_safe_to_look_at_and_not_kept(recommender: Recommender, listen: Listen) -> None:
    client = listen(api_of(recommender))
    answer = client.get("/v1/users/u1")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = client.get("/")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "cache-control" not in client.get("/page/feed.js").headers
    assert client.get("/v1/videos/v6/cover").headers["cache-control"] == "private, max-age=3600"
