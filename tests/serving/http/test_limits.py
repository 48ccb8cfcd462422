"""How much a caller may ask for, and for how long."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from rayrec.serving.http.auth import Keys
from rayrec.serving.http.limits import LimitsMiddleware, TokenBuckets
from rayrec.serving.http.request_log import RequestLogMiddleware
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import Recommender
from tests.serving.http.helpers import FIRST, Listen, api_of, error, in_process


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
    monkeypatch.setattr("rayrec.serving.http.limits.MAX_CALLERS", 3)
    buckets = TokenBuckets(1.0, lambda: 0.0)
    for caller in "abcad":
        buckets.wait(caller)
    assert list(buckets._buckets) == ["c", "a", "d"]


def test_a_caller_that_asks_too_often_is_told_when_to_come_back(recommender: Recommender, listen: Listen) -> None:
    client = listen(api_of(recommender, Keys(["first", "second"]), requests_per_s=2))
    answers = [client.get("/v1/topics", headers=FIRST) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 429]
    assert "more than 2 requests per second (serving.requests_per_s)" in error(answers[-1], 429)
    assert answers[-1].headers["retry-after"] == "1"
    assert client.get("/v1/topics", headers={"Authorization": "Bearer second"}).status_code == 200
    assert [client.get("/healthz").status_code for _ in range(5)] == [200] * 5


@pytest.mark.parametrize("path", ["/", "/dashboard", "/docs", "/page/feed.js", "/readyz", "/openapi.json", "/nonsense"])
def test_whatever_does_work_counts(recommender: Recommender, listen: Listen, path: str) -> None:
    client = listen(api_of(recommender, Keys(["first"]), requests_per_s=2))
    assert [client.get(path).status_code for _ in range(4)][2:] == [429, 429]
    assert client.get("/healthz").status_code == 200


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def test_more_than_can_be_done_at_once_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.serving.http.limits.MAX_AT_ONCE", 3)

    async def go() -> None:
        gate = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await gate.wait()
            await ok(scope, receive, send)

        limited = LimitsMiddleware(app, {}, None, 5)
        async with in_process(limited) as client:
            waiting = [asyncio.create_task(client.get("/v1/x")) for _ in range(3)]
            while limited.at_once < 3:
                await asyncio.sleep(0)
            refused = await client.get("/v1/x")
            assert "the service is overloaded" in error(refused, 503)
            assert refused.headers["retry-after"] == "1"
            gate.set()
            assert [(await answer).status_code for answer in waiting] == [200] * 3
            assert limited.at_once == 0

    asyncio.run(go())


# --- time ---


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
    # Long enough that also a busy machine has come to the ranking by then.
    client = listen(api_of(recommender, timeout_s=2))
    started = time.monotonic()
    answer = client.post("/v1/recommend", json={"user_id": "u1"})
    assert time.monotonic() - started < 30
    assert error(answer, 503) == "the request took longer than 2 s; try again in a second"
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
        limited = LimitsMiddleware(app, {}, None, 0.05)
        async with in_process(limited) as client:
            assert (await client.get("/v1/x")).text == "begin"
            late = await client.post("/v1/x", content=dribble())
            assert error(late, 408) == "the body did not arrive within 0.05 s"
        assert limited.at_once == 0

    asyncio.run(go())


def test_a_timeout_of_the_application_itself_is_not_taken_for_the_limit() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise TimeoutError("inside")

    async def go() -> None:
        async with in_process(RequestLogMiddleware(LimitsMiddleware(app, {}, None, 5), LocalMetrics())) as client:
            assert "its log says why" in error(await client.get("/v1/x"), 500)

    asyncio.run(go())
