"""Every mistake of a caller of the HTTP API is answered with a 4xx and a sentence."""

import json
import re
from typing import Any

import httpx
import pytest

from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import now_ms
from tests.serving.http.helpers import click, error

WRONG_REQUESTS: list[tuple[str | bytes, int, str]] = [
    ("", 422, "the body"),
    ("{", 400, "the body is not valid JSON"),
    ("[" * 30_000, 400, "the body"),
    ("null", 422, "the body"),
    ('"x"', 422, "the body"),
    ('{"k": 3}', 422, "user_id is missing"),
    ('{"user_id": "u", "userid": 1}', 422, "unknown field 'userid'; did you mean 'user_id'?"),
    (
        '{"user_id": "u", "K": 1}',
        422,
        "unknown field 'K'; known: blocked_authors, context, debug, exclude, k, page_number,",
    ),
    ('{"user_id": "u", "k": 0}', 422, "k: must be 1 or more (got 0)"),
    ('{"user_id": "u", "k": -1}', 422, "k: must be 1 or more"),
    ('{"user_id": "u", "k": 1000000000}', 422, "k: a page holds at most 100 videos (serving.max_k), not 1000000000"),
    ('{"user_id": "u", "k": 1' + "0" * 5000 + "}", 400, "the body"),
    ('{"user_id": "u", "k": 2.5}', 422, "k: must be a whole number"),
    ('{"user_id": "u", "k": NaN}', 422, "k: "),
    ('{"user_id": "u", "k": true}', 422, "k: "),
    ('{"user_id": ""}', 422, "user_id: must not be empty (got '')"),
    ('{"user_id": 7}', 422, "user_id: must be a string (got 7)"),
    ('{"user_id": "\\ud800"}', 422, "user_id: "),
    ('{"user_id": "' + "x" * 600 + '"}', 422, "user_id: must have at most 512 characters"),
    ('{"user_id": "u", "exclude": "v1"}', 422, "exclude: must be a list"),
    ('{"user_id": "u", "exclude": [1]}', 422, "exclude.0: must be a string"),
    ('{"user_id": "u", "blocked_authors": [""]}', 422, "blocked_authors.0: must not be empty"),
    ('{"user_id": "u", "context": []}', 422, "context: must be an object with names and values"),
    ('{"user_id": "u", "context": {"device": []}}', 422, "context.device: names have 1 to 64 characters, and values are numbers"),
    ('{"user_id": "u", "context": {"": 1}}', 422, "context.: names have 1 to 64 characters"),
    (b"\xff\xfe\x00", 400, "the body"),
]


def test_a_wrong_request_gets_a_sentence(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for body, status, sentence in WRONG_REQUESTS:
        with subtests.test(body=body[:60]):
            response = client.post("/v1/recommend", content=body, headers={"Content-Type": "application/json"})
            assert error(response, status).startswith(sentence)


WRONG_EVENTS: list[tuple[list[dict[str, Any]], int, str]] = [
    ([], 422, "events: must not be empty"),
    ([click(0, vdieo=1)], 422, "unknown field 'events.0.vdieo'; did you mean 'video_id'?"),
    ([click(0, kind="clik")], 422, "events.0: kind: there is no kind 'clik'; did you mean 'click'?"),
    ([click(0), {"event_id": "x", "user_id": "u", "kind": "click"}], 422, "events.1.video_id is missing"),
    ([click(0, video_id="v99")], 422, "events.0: there is no video 'v99'"),
    ([click(0, watch_s=-1)], 422, "events.0.watch_s: must be 0 or more"),
    ([click(0, watch_s=float("nan"))], 422, "events.0.watch_s: must be a finite number"),
    ([click(0, watch_s=float("inf"))], 422, "events.0.watch_s: must be a finite number"),
    ([click(0, watch_s=1e308)], 422, "events.0.watch_s: must be 86400 or less (got 1e+308)"),
    ([click(0, at=-5)], 422, "events.0.at: "),
    ([click(0, at=0)], 422, "events.0: at: 0 is more than 90 days ago, and serving.retention_days deletes it"),
    ([click(0, at=now_ms() + 10**7)], 422, "events.0: at: "),
    ([click(0, at=10**30)], 422, "events.0: at: "),
    ([click(n) for n in range(1001)], 422, "events: must have at most 1000 entries"),
]


def test_wrong_events_get_a_sentence_and_none_is_kept(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for events, status, sentence in WRONG_EVENTS:
        with subtests.test(sentence=sentence):
            response = client.post(
                "/v1/events", content=json.dumps({"events": events}), headers={"Content-Type": "application/json"}
            )
            assert error(response, status).startswith(sentence)
    assert client.get("/v1/users/new").json()["clicks"] == 0


def test_events_that_can_not_be_kept_are_named_and_the_others_kept(client: httpx.Client, metrics: LocalMetrics) -> None:
    later = now_ms() + 10**7
    wrong = [click(1, video_id="v99"), click(2, at=later), click(3, kind="watch")]
    answer = client.post(
        "/v1/events", json={"events": [click(0), *wrong, click(5, kind="watch", watch_s=0), click(5, event_id="c")]}
    ).json()
    assert (answer["received"], answer["new"]) == (6, 3)
    first, second, third = answer["refused"]
    assert first == {"event_id": "e1", "error": "there is no video 'v99'"}
    assert second["event_id"] == "e2"
    assert second["error"].startswith(f"at: {later} is in the future")
    assert third == {"event_id": "e3", "error": "a watch event needs watch_s"}
    assert client.get("/v1/users/new").json()["clicks"] == 2
    assert metrics.value("events_total", kind="refused") == 3


@pytest.mark.parametrize(("scale", "said"), [(0.001, "days ago, and .* in seconds"), (1000, "in the future; .* in microseconds")])
def test_an_event_whose_time_has_another_unit_is_refused_with_the_unit(client: httpx.Client, scale: float, said: str) -> None:
    at = now_ms() // 1000 * 1000
    refusal = error(client.post("/v1/events", json={"events": [click(0, at=int(at * scale))]}), 422)
    assert re.search(f"{said}: send {at}$", refusal)


def test_an_event_of_the_retained_days_is_kept(client: httpx.Client) -> None:
    at = now_ms() - 89 * 24 * 3600 * 1000
    assert client.post("/v1/events", json={"events": [click(0, at=at)]}).json()["new"] == 1


def test_ids_have_one_text(client: httpx.Client) -> None:
    assert client.post("/v1/events", json={"events": [click(0, user_id="7.0"), click(5, user_id="7")]}).json()["new"] == 2
    assert client.get("/v1/users/7.0").json() | {"user_id": "7", "clicks": 2} == client.get("/v1/users/7").json()


def test_a_large_body_is_refused(client: httpx.Client) -> None:
    large = b" " * 2**20 + b'{"user_id": "u"}'
    headers = {"Content-Type": "application/json"}
    assert "larger than the 65,536 bytes that /v1/recommend accepts" in error(
        client.post("/v1/recommend", content=large, headers=headers), 413
    )
    in_parts = iter([large[:1000]] * 1100)  # no Content-Length
    assert "larger than the 1,048,576 bytes" in error(client.post("/v1/events", content=in_parts, headers=headers), 413)
    assert client.post("/v1/recommend", content=large[-2000:], headers=headers).status_code == 200


def test_wrong_paths_methods_and_types_get_a_sentence(client: httpx.Client) -> None:
    assert error(client.get("/v1/recommend"), 405) == "/v1/recommend does not accept GET; it accepts POST"
    assert error(client.delete("/v1/topics"), 405) == "/v1/topics does not accept DELETE; it accepts GET"
    assert error(client.get("/v2/anything"), 404) == "there is no route '/v2/anything'; /docs lists all routes"
    assert "not text/plain" in error(
        client.post("/v1/recommend", content='{"user_id": "u"}', headers={"Content-Type": "text/plain"}), 415
    )
    assert "application/json" in error(client.post("/v1/events", content=b"{}"), 415)
