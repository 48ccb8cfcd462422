"""`POST /v1/search`: what a request may hold, what is asked of the search, and what is answered."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from rayrec.config import Search as Settings
from rayrec.config import Serving
from rayrec.retrieval.index import Filters
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import OverloadedError, Recommender
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.search_query import Found, SearchError, SearchQuery
from tests.serving.http.helpers import BUSY, FIRST, Listen, api_of, error


@dataclass
class Search:
    """Notes what it is asked, and finds two videos of the catalog and one that is not in it."""

    asked: list[tuple[str, SearchQuery]] = field(default_factory=list)
    problem: Exception | None = None

    async def __call__(self, version: str, query: SearchQuery) -> Found:
        self.asked.append((version, query))
        if self.problem is not None:
            raise self.problem
        return Found(["v7", "unknown", "v2"], [0.91234, 0.8, 0.5], ["guitar"], 0.25)


def api(recommender: Recommender, search: Callable[..., Awaitable[Found]], keys: Keys | None = None, **limit: int) -> Any:
    return create_api(
        lambda: Arms(recommender), Serving(), keys or Keys(), LocalMetrics(), list, ask=search, searching=Settings(**limit)
    )


@pytest.fixture
def search() -> Search:
    return Search()


@pytest.fixture
def client(recommender: Recommender, search: Search, listen: Listen) -> httpx.Client:
    return listen(api(recommender, search, max_upload_bytes=100))


def test_words_find_videos_in_the_form_of_all_routes(client: httpx.Client, search: Search, recommender: Recommender) -> None:
    answer = client.post("/v1/search", json={"text": "a song"}).json()
    assert [video["video_id"] for video in answer["videos"]] == ["v7", "v2"]
    assert [video["score"] for video in answer["videos"]] == [0.9123, 0.5]
    assert (answer["tags"], answer["min_score"], answer["bundle"]) == (["guitar"], 0.25, recommender.bundle.version)
    video = client.get("/v1/videos/v7").json()
    assert {name: value for name, value in answer["videos"][0].items() if name != "score"} == video
    assert search.asked == [(recommender.bundle.version, SearchQuery("text", "a song", 10))]


def test_filters_k_and_the_floor_reach_the_search(client: httpx.Client, search: Search) -> None:
    filters = {"class": "music", "author": "bob", "since": 1_763_700_000_000}
    client.post("/v1/search", json={"text": "a", "k": 3, "min_score": -0.5, "filters": filters})
    client.post("/v1/search", params=filters | {"k": 3, "min_score": -0.5}, content=b"GIF", headers={"content-type": "image/gif"})
    wanted = Filters("music", "bob", 1_763_700_000_000)
    assert [query for _, query in search.asked] == [
        SearchQuery("text", "a", 3, -0.5, wanted),
        SearchQuery("picture", b"GIF", 3, -0.5, wanted),
    ]


def test_the_content_type_says_whether_it_is_a_picture_or_a_sound(client: httpx.Client, search: Search) -> None:
    for kind in ("image/png", "audio/mpeg", "Audio/WAV; codecs=1"):
        assert client.post("/v1/search", content=b"x", headers={"content-type": kind}).status_code == 200
    assert [query.kind for _, query in search.asked] == ["picture", "sound", "sound"]


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({}, 422, "text is missing"),
        ({"text": ""}, 422, "text: "),
        ({"text": "a" * 1001}, 422, "text: "),
        ({"text": "a", "tekst": "b"}, 422, "unknown field 'tekst'; did you mean 'text'?"),
        ({"text": "a", "k": 0}, 422, "k: "),
        ({"text": "a", "k": 101}, 422, "k: an answer holds at most 100 videos (serving.max_k), not 101"),
        ({"text": "a", "min_score": 2}, 422, "min_score: "),
        ({"text": "a", "filters": {"author": 5}}, 422, "filters.author: "),
        ({"text": "a", "filters": {"klass": "b"}}, 422, "unknown field 'filters.klass'; did you mean 'class'?"),
        ({"text": "a", "filters": {"since": 1_763_700_000}}, 422, "filters.since: must be a time of 1990 or later"),
        ([], 422, "the body: "),
    ],
)
def test_a_wrong_query_is_named(client: httpx.Client, search: Search, body: object, status: int, sentence: str) -> None:
    assert error(client.post("/v1/search", json=body), status).startswith(sentence)
    assert search.asked == []


def test_what_is_no_json_and_no_medium_is_refused(client: httpx.Client, search: Search) -> None:
    headers = {"content-type": "application/json"}
    assert "not valid JSON" in error(client.post("/v1/search", content=b'{"text": ', headers=headers), 400)
    assert "can't be read as JSON" in error(client.post("/v1/search", content=b'{"text": "\xff"}', headers=headers), 400)
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "video/mp4"):
        sentence = error(client.post("/v1/search", content=b"x", headers={"content-type": kind}), 415)
        assert "with a Content-Type of application/json, image/*, audio/*" in sentence
    assert "larger than the 100 bytes" in error(
        client.post("/v1/search", content=bytes(101), headers={"content-type": "image/png"}), 413
    )
    picture = {"content": b"x", "headers": {"content-type": "image/png"}}
    assert "since: must be a time of 1990 or later" in error(client.post("/v1/search?since=5", **picture), 422)  # type: ignore[arg-type]
    assert "unknown name 'athor'" in error(client.post("/v1/search?athor=bob", **picture), 422)  # type: ignore[arg-type]
    assert "k: " in error(client.post("/v1/search?k=0", content=b"x", headers={"content-type": "image/png"}), 422)
    assert search.asked == []


def test_what_the_search_cannot_answer_is_a_sentence(client: httpx.Client, search: Search) -> None:
    search.problem = SearchError(422, "the picture can't be read: it is not a picture")
    assert error(client.post("/v1/search", json={"text": "a"}), 422) == "the picture can't be read: it is not a picture"
    search.problem = SearchError(404, "run `rayrec search_index CONFIG`")
    assert error(client.post("/v1/search", json={"text": "a"}), 404) == "run `rayrec search_index CONFIG`"
    search.problem = OverloadedError("busy")
    assert error(client.post("/v1/search", json={"text": "a"}), 503) == BUSY


def test_a_service_without_search_says_how_it_gets_one(recommender: Recommender, listen: Listen) -> None:
    sentence = error(listen(api_of(recommender)).post("/v1/search", json={"text": "a"}), 404)
    assert "add `search: {}`" in sentence
    assert "rayrec search_index" in sentence


def test_keys_are_needed_as_for_all_calls(recommender: Recommender, search: Search, listen: Listen) -> None:
    client = listen(api(recommender, search, Keys(["first"])))
    assert client.post("/v1/search", json={"text": "a"}).status_code == 401
    assert client.post("/v1/search", json={"text": "a"}, headers=FIRST).status_code == 200


def test_the_description_of_the_api_has_all_three_kinds_of_body(recommender: Recommender, search: Search) -> None:
    description = api(recommender, search).openapi()
    body = description["paths"]["/v1/search"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "image/*", "audio/*"}
    assert "SearchRequest" in description["components"]["schemas"]
    assert "class" in description["components"]["schemas"]["SearchFilters"]["properties"]
