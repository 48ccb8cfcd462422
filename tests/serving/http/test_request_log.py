"""What is logged about each request, and the headers that make answers safe."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from rayrec.serving.http import request_log
from rayrec.serving.http.auth import Keys
from rayrec.serving.recommender import Recommender
from tests.serving.http.helpers import FIRST, Listen, api_of, error


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
