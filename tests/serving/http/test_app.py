"""The HTTP API without Ray: its answers, what it counts, and how it tells of trouble."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rayrec.config import Config, Selection, Serving
from rayrec.serving import covers
from rayrec.serving.covers import read as read_cover
from rayrec.serving.http import bodies, experiment_schemas, feedback_schemas, music_schemas, schemas
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import OverloadedError, Recommender, now_ms
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.state.store import StoreError
from tests.serving.http.helpers import Listen, click, error
from tests.serving.small_world import JPEG, WORDS, rank_by_number, topic_of

SCHEMAS = (bodies, schemas, experiment_schemas, feedback_schemas, music_schemas)


def test_recommend_answers_with_videos_and_reasons(client: httpx.Client) -> None:
    answer = client.post("/v1/recommend", json={"user_id": "u2", "k": 30}).json()
    videos = [video for video in answer["videos"] if video["why"] != "again"]
    assert [video["score"] for video in videos] == sorted((video["score"] for video in videos), reverse=True)
    assert {video["why"] for video in videos} == {"topic: guitar, song", "popular", "new"}
    known = next(video for video in videos if video["why"].startswith("topic"))
    assert known["topic"] == 2 == topic_of(int(known["video_id"][1:]))
    assert answer["debug"] is None
    assert answer["arm"] == "stable"


def test_debug_shows_the_steps(client: httpx.Client) -> None:
    steps = client.post("/v1/recommend", json={"user_id": "u2", "debug": True}).json()["debug"]["steps"]
    assert [step["step"] for step in steps] == ["hydrate", "source", "filter", "backfill", "score", "select", "log"]


def test_an_unknown_user_is_answered(client: httpx.Client) -> None:
    videos = client.post("/v1/recommend", json={"user_id": "nobody \U0001f600 \u202e", "k": 5}).json()["videos"]
    assert {video["why"] for video in videos} <= {"popular", "new"}
    assert len(videos) == 5


def test_events_change_the_next_answer(client: httpx.Client) -> None:
    before = client.get("/v1/users/new").json()
    assert (before["clicks"], before["topics"]) == (0, [])
    answer = client.post("/v1/events", json={"events": [click(36), click(0), click(5)]}).json()
    assert answer == {"received": 3, "new": 3, "duplicates": [], "refused": []}
    again = client.post("/v1/events", json={"events": [click(5), click(5, user_id="other"), click(36, kind="like")]}).json()
    assert again == {"received": 3, "new": 1, "duplicates": ["e5", "e36"], "refused": []}
    after = client.get("/v1/users/new").json()
    assert [(topic["words"], topic["clicks"]) for topic in after["topics"]] == [(["dog", "puppy"], 2), (["sea", "beach"], 1)]
    page = client.post("/v1/recommend", json={"user_id": "new", "k": 40}).json()["videos"]
    assert {"topic: dog, puppy", "topic: sea, beach"} < {video["why"] for video in page}
    assert not {"v36", "v0", "v5"} & {video["video_id"] for video in page if video["why"] != "again"}


def test_what_the_catalog_says_of_a_video(client: httpx.Client) -> None:
    video = client.get("/v1/videos/v6").json()
    assert video["title"] == "<b>Clip</b> 6 of guitars"
    assert video["topics"] == [{"topic": 2, "words": ["guitar", "song"], "similarity": 0.9}]
    assert (video["cover"], video["file"]) == ("/v1/videos/v6/cover", "/v1/videos/v6/file")
    assert error(client.get("/v1/videos/v99"), 404) == "there is no video 'v99'"


def test_topics_have_words(client: httpx.Client) -> None:
    assert client.get("/v1/topics").json()[1] == {"topic": 1, "words": ["sea", "beach"], "videos": 10}


def test_covers(client: httpx.Client) -> None:
    response = client.get("/v1/videos/v6/cover")
    assert (response.content, response.headers["content-type"]) == (JPEG, "image/jpeg")
    assert error(client.get("/v1/videos/v7/cover"), 404) == "video 'v7' has no cover"


def test_a_cover_that_is_damaged_is_not_sent(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(covers, "read", lambda fs, path, offset, length, crc32: read_cover(fs, path, offset, length, crc32 ^ 1))
    with caplog.at_level("ERROR"):
        sentence = error(client.get("/v1/videos/v6/cover"), 404)
    assert sentence == "video 'v6' has no cover that can be read; the service's log says why"
    assert "is not the one that was published (its checksum differs); run `rayrec publish CONFIG --force`" in caplog.text


def test_a_file_can_be_played_and_sought_in(client: httpx.Client, published: Config) -> None:
    data = Path(published.workspace, "media", "clip.mp4").read_bytes()
    whole = client.get("/v1/videos/v6/file")
    assert (whole.content, whole.headers["content-type"], whole.headers["accept-ranges"]) == (data, "video/mp4", "bytes")
    part = client.get("/v1/videos/v6/file", headers={"Range": "bytes=250-259"})
    assert (part.status_code, part.content) == (206, data[250:260])
    assert part.headers["content-range"] == f"bytes 250-259/{len(data)}"
    assert client.get("/v1/videos/v6/file", headers={"Range": "bytes=99999999-"}).status_code == 416


def test_only_media_that_the_catalog_lists_are_handed_out(client: httpx.Client) -> None:
    web = client.get("/v1/videos/v20/file", follow_redirects=False)
    assert (web.status_code, web.headers["location"]) == (307, "https://example.org/a.mp4")
    for name in ("v7", "v22", "v23"):
        assert "has no file that this service can send" in error(client.get(f"/v1/videos/{name}/file"), 404)
    for path in ("/v1/videos/..%2f..%2fetc%2fpasswd/file", "/page/..%2fapi.py", "/page/%2e%2e/api.py", "/page//etc/passwd"):
        assert client.get(path).status_code == 404
    assert client.get("/v1/videos/v23").json()["file"] is None


def test_pages_run_no_scripts_but_their_own(client: httpx.Client) -> None:
    for path in ("/", "/dashboard", "/docs"):
        response = client.get(path)
        assert response.headers["content-type"].startswith("text/html")
        policy = response.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "default-src 'none'" in policy
    for name in ("feed.js", "feed.css", "docs.js", "icon.svg"):
        text = client.get(f"/page/{name}").text
        assert "innerHTML" not in text
        assert "://" not in text.replace("http://www.w3.org/2000/svg", "")  # nothing from another host


def test_the_description_has_every_route_with_errors_and_examples(client: httpx.Client) -> None:
    description = client.get("/openapi.json").json()
    paths, described = description["paths"], description["components"]["schemas"]
    assert {"/v1/recommend", "/v1/events", "/v1/users/{user_id}", "/v1/similar/{video_id}", "/v1/withdrawn/{video_id}"} < set(paths)
    for path, methods in paths.items():
        for method in methods.values():
            assert {"200", "4XX", "503"} <= set(method["responses"]), path
    ours = {name: schema for name, schema in described.items() if "ValidationError" not in name}
    for name, schema in ours.items():
        for example in schema["examples"]:
            module = next(module for module in SCHEMAS if hasattr(module, name))
            getattr(module, name).model_validate(example)


def test_requests_are_filtered_by_author_and_carry_a_context(client: httpx.Client, recommender: Recommender) -> None:
    seen: list[dict[str, Any]] = []

    async def rank(user_id: str, user: object, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
        seen.append(context)
        return await rank_by_number(user_id, user, at, candidates, context)  # type: ignore[arg-type]

    recommender.rank = rank
    context = {"device": "phone", "wifi": True, "battery": 0.5, "cell": None}
    body = {"user_id": "u2", "k": 5, "blocked_authors": ["nobody"], "context": context}
    assert client.post("/v1/recommend", json=body).status_code == 200
    assert seen == [context]


def test_each_user_is_answered_by_their_arm(bundle: Any, recommender: Recommender, published: Config, listen: Listen) -> None:
    canary = Recommender(bundle, recommender.store, rank_by_number, published.recall, Selection(), seed=1)
    client = listen(create_api(lambda: Arms(recommender, canary, 0.5), Serving(), Keys(), LocalMetrics(), list))
    arms = {f"n{n}": client.post("/v1/recommend", json={"user_id": f"n{n}", "k": 1}).json()["arm"] for n in range(20)}
    assert set(arms.values()) == {"stable", "canary"}
    assert arms == {user: client.post("/v1/recommend", json={"user_id": user, "k": 1}).json()["arm"] for user in arms}
    shown = [{"arm": each["arm"], "share": each["share"]} for each in client.get("/v1/dashboard").json()["arms"]]
    assert shown == [{"arm": "stable", "share": 0.5}, {"arm": "canary", "share": 0.5}]


def test_similar_videos(client: httpx.Client) -> None:
    answer = client.get("/v1/similar/v6?k=3").json()
    assert answer["video_id"] == "v6"
    assert len(answer["videos"]) == 3
    assert {video["topics"][0]["topic"] for video in answer["videos"]} == {topic_of(6)}
    assert "v6" not in {video["video_id"] for video in answer["videos"]}
    assert error(client.get("/v1/similar/v99"), 404) == "there is no video 'v99'"
    assert error(client.get("/v1/similar/v6?k=0"), 422).startswith("k: must be 1 or more")
    assert error(client.get("/v1/similar/v6?k=1000"), 422).startswith("k: must be 100 or less")


def test_a_user_is_forgotten(client: httpx.Client) -> None:
    client.post("/v1/events", json={"events": [click(36), click(0)]})
    assert client.delete("/v1/users/new").json() == {"events": 2}
    after = client.get("/v1/users/new").json()
    assert (after["clicks"], after["seen"]) == (0, 0)
    assert client.get("/v1/users/u2").json()["clicks"] > 0
    client.delete("/v1/users/u2")
    nothing = {"clicks": 0, "seen": 0, "topics": [], "fields": {}, "feedback": []}
    assert client.get("/v1/users/u2").json() == {"user_id": "u2"} | nothing


def test_a_withdrawn_video_is_in_no_page(client: httpx.Client, recommender: Recommender) -> None:
    def pages() -> set[str]:
        recommender.refresh(now_ms())
        return {video["video_id"] for user in "abc" for video in recommend(client, f"w{user}{now_ms()}")}

    assert "v38" in pages()
    assert client.put("/v1/withdrawn/v38").json() == {"video_id": "v38", "withdrawn": True}
    assert "v38" not in pages()
    assert client.delete("/v1/withdrawn/v38").json() == {"video_id": "v38", "withdrawn": False}
    assert "v38" in pages()
    assert error(client.put("/v1/withdrawn/v99"), 404) == "there is no video 'v99'"


def recommend(client: httpx.Client, user: str) -> list[dict[str, Any]]:
    answer = client.post("/v1/recommend", json={"user_id": user, "k": 40})
    assert answer.status_code == 200, answer.text
    return answer.json()["videos"]


def test_the_dashboard_has_queues_traffic_and_swaps(client: httpx.Client, recommender: Recommender) -> None:
    recommend(client, "d")
    client.post("/v1/events", json={"events": [click(0, user_id="d"), click(1, user_id="d")]})
    recommender.refresh(now_ms())
    board = client.get("/v1/dashboard").json()
    assert board["arms"] == [{"arm": "stable", "bundle": recommender.bundle.version, "share": 1.0}]
    assert {queue["topic"]: queue["words"] for queue in board["queues"]} == dict(enumerate(WORDS))
    first = board["queues"][0]["first"][0]
    assert first.keys() == {"video_id", "title", "ctr", "exposures", "cover"}
    assert len(board["traffic"]) == 24
    assert board["traffic"][-1]["clicks"] + board["traffic"][-2]["clicks"] == 2
    assert [(swap["bundle"], swap["canary"], swap["outcome"]) for swap in board["swaps"]] == [
        ("a", None, "done"),
        ("a", "b", "broken"),
    ]
    assert len(board["users"]) == 5


def test_a_metric_that_is_not_defined_is_null(client: httpx.Client, recommender: Recommender) -> None:
    info = replace(recommender.bundle.info, metrics={"auc": 0.5, "gauc": None})
    recommender.bundle = replace(recommender.bundle, info=info)
    assert client.get("/v1/dashboard").json()["metrics"] == {"auc": 0.5, "gauc": None}


def test_what_is_answered_is_counted(client: httpx.Client, metrics: LocalMetrics) -> None:
    recommend(client, "u2")
    recommend(client, "nobody")
    client.post("/v1/events", json={"events": [click(1), click(2)]})
    client.get("/v1/videos/v6")
    client.get("/v1/videos/a/b/c")
    client.get("/nowhere")
    assert metrics.value("requests_total", route="/v1/recommend", status="200") == 2
    assert metrics.value("requests_total", route="/v1/videos/{video_id}", status="404") == 1
    assert metrics.value("requests_total", route="other", status="404") == 1
    assert metrics.value("pages_total", arm="stable") == 2
    assert metrics.value("cold_users_total", arm="stable") == 1
    assert metrics.value("events_total", kind="click") == 2
    shown = metrics.value("events_total", kind="impression")
    assert shown == sum(metrics.value("videos_total", source=source) for source in ("topic", "popular", "new", "again"))
    assert metrics.value("videos_total", source="topic") > 0


def test_health_and_readiness(recommender: Recommender, listen: Listen) -> None:
    current: list[Recommender] = []
    arms = lambda: Arms(current[0]) if current else None  # noqa: E731
    client = listen(create_api(arms, Serving(), Keys(), LocalMetrics(), list))
    assert client.get("/healthz").json() == {"bundle": None}
    starting = client.get("/readyz")
    assert error(starting, 503)
    assert starting.headers["retry-after"] == "1"
    current.append(recommender)
    assert client.get("/readyz").json() == {"bundle": recommender.bundle.version}


@pytest.mark.parametrize("problem", [OverloadedError("queue"), StoreError("disk"), RuntimeError("a secret")])
def test_trouble_inside_is_told_without_details(client: httpx.Client, recommender: Recommender, problem: Exception) -> None:
    async def rank(*call: object) -> np.ndarray:
        raise problem

    recommender.rank = rank
    response = client.post("/v1/recommend", json={"user_id": "u1"})
    inside = isinstance(problem, RuntimeError) and not isinstance(problem, StoreError)
    assert str(problem) not in error(response, 500 if inside else 503)
    assert ("retry-after" in response.headers) != inside


# --- what is known of event ids ---


def test_a_callers_event_id_never_meets_one_of_ours(client: httpx.Client) -> None:
    """Callers make ids from what they know: the id of the request, and places in the page."""
    page = client.post("/v1/recommend", json={"user_id": "new", "k": 5}).json()
    ids = [f"{page['request_id']}-{place}" for place in range(5)]
    clicks = [click(0, event_id=id, video_id=video["video_id"]) for id, video in zip(ids, page["videos"], strict=True)]
    answer = client.post("/v1/events", json={"events": clicks}).json()
    assert (answer["new"], answer["duplicates"]) == (5, [])
    assert client.get("/v1/users/new").json()["clicks"] == 5


def test_what_is_said_of_users_is_kept_and_forgotten_with_them(client: httpx.Client) -> None:
    told = {"age": 31, "country": "PE", "likes": ["food", "rain"], "premium": True}
    answer = client.post("/v1/users", json={"users": [{"user_id": "ann", "fields": told}, {"user_id": "b/c", "fields": {}}]})
    assert answer.json() == {"users": 2}
    assert client.get("/v1/users/ann").json()["fields"] == told
    assert client.get("/v1/users/b%2Fc").json()["fields"] == {}
    assert client.post("/v1/recommend", json={"user_id": "ann", "k": 3}).is_success
    client.post("/v1/users", json={"users": [{"user_id": "ann", "fields": {"age": 32}}]})
    assert client.get("/v1/users/ann").json()["fields"] == {"age": 32}
    client.delete("/v1/users/ann")
    assert client.get("/v1/users/ann").json()["fields"] == {}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"users": []}, "users"),
        ({"users": [{"user_id": "", "fields": {}}]}, "users.0.user_id"),
        (
            {"users": [{"user_id": "ann", "fields": {"age": {"years": 3}}}]},
            "users.0.fields.age: names have 1 to 64 characters, and",
        ),
        ({"users": [{"user_id": "ann", "fields": {"about": "x" * 513}}]}, "users.0.fields.about: "),
        ({"users": [{"user_id": "ann", "fields": {"all": list(range(51))}}]}, "users.0.fields.all: "),
        ({"users": [{"user_id": "ann", "fields": {"": 1}}]}, "users.0.fields"),
        ({"users": [{"user_id": "ann", "facts": {}}]}, "users.0.fields is missing"),
        ({"users": [{"user_id": "ann", "fields": {}, "user": "b"}]}, "did you mean 'user_id'?"),
        ({"user_id": "ann"}, "users"),
    ],
)
def test_what_can_not_be_said_of_users_is_refused(client: httpx.Client, body: dict, sentence: str) -> None:
    assert sentence in error(client.post("/v1/users", json=body), 422)
