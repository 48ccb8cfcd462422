"""`POST /v1/music`: what a request may hold, what is answered to whom, and the sounds of tracks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from rayrec.client import Client
from rayrec.config import Config, Serving
from rayrec.serving.additions import AddedVideo
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.music import Music
from rayrec.serving.recommender import OverloadedError, Recommender, now_ms
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.search_query import Place, SearchError
from tests.serving.http.helpers import BUSY, FIRST, Listen, api_of, error
from tests.serving.music_world import LONG, SILENT, WEB, track
from tests.serving.small_world import video


@dataclass
class Places:
    """Notes what it is asked, and answers with the place of v2."""

    place: np.ndarray | None
    asked: list[tuple[str, Any]] = field(default_factory=list)
    problem: Exception | None = None

    async def __call__(self, version: str, video: str | dict[str, list[float]]) -> np.ndarray | None:
        self.asked.append((version, video))
        if self.problem is not None:
            raise self.problem
        return self.place


@pytest.fixture
def places(musical: Recommender, music: Music) -> Places:
    return Places(music.place_of(musical.items.find("v2")))


@pytest.fixture
def music(musical: Recommender) -> Music:
    assert musical.bundle.music is not None
    return musical.bundle.music


def api(
    recommender: Recommender, config: Config, metrics: LocalMetrics, place: Place | None, keys: tuple[str, ...] = ()
) -> FastAPI:
    return create_api(lambda: Arms(recommender), Serving(), Keys(keys), metrics, list, place=place, music=config.music)


@pytest.fixture
def client(musical: Recommender, music_world: Config, metrics: LocalMetrics, places: Places, listen: Listen) -> httpx.Client:
    return listen(api(musical, music_world, metrics, places))


Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def ask(client: httpx.Client) -> Ask:
    def ask(**body: Any) -> list[dict[str, Any]]:
        answer = client.post("/v1/music", json=body)
        assert answer.status_code == 200, answer.text
        tracks: list[dict[str, Any]] = answer.json()["tracks"]
        return tracks

    return ask


def test_tracks_for_a_video_and_a_user(client: httpx.Client, musical: Recommender, music: Music, metrics: LocalMetrics) -> None:
    answer = client.post("/v1/music", json={"user_id": "u3", "video_id": "v2", "k": 4}).json()
    assert answer["bundle"] == musical.bundle.version
    best = music.best("u3", music.place_of(musical.items.find("v2")), 4)
    ids = [facts["track_id"] for facts in music.facts_of(best.rows)]
    assert [each["track_id"] for each in answer["tracks"]] == ids
    for each, score, fit, rating in zip(answer["tracks"], best.scores, best.fits, best.ratings, strict=True):
        assert (each["score"], each["rating"]) == pytest.approx((score, rating), abs=1e-4)
        assert each["fit"] == (None if np.isnan(fit) else pytest.approx(float(fit), abs=1e-4))
        assert each["title"].startswith("<i>Tune</i> ")
    assert metrics.value("music_total", kind="video") == 1


def test_each_user_has_a_taste_and_strangers_have_that_of_all(ask: Ask) -> None:
    def ratings(**user: str) -> dict[str, float]:
        return {each["track_id"]: each["rating"] for each in ask(video_id="v2", k=12, **user)}

    assert ratings(user_id="u3") != ratings(user_id="u0")
    assert ratings(user_id="zoë") not in (ratings(), ratings(user_id="u3"))
    assert ratings() == ratings(user_id="stranger") == ratings(user_id=" ")


def test_who_was_forgotten_is_a_stranger_from_the_next_answer_on(client: httpx.Client, ask: Ask) -> None:
    nobody, before = ask(video_id="v2"), ask(user_id="u3", video_id="v2")
    assert nobody != before
    assert client.delete("/v1/users/u3").status_code == 200
    assert ask(user_id="u3", video_id="v2") == nobody
    assert ask(user_id="u0", video_id="v2") != nobody


def test_the_sound_of_a_track_that_is_not_known_has_no_fit(ask: Ask) -> None:
    tracks = {each["track_id"]: each for each in ask(video_id="v2", k=12)}
    known = [each for each in tracks.values() if each["fit"] is not None]
    assert {each["track_id"] for each in tracks.values() if each["fit"] is None} == {track(4), track(SILENT)}
    mean = np.mean([each["fit"] for each in known])
    assert tracks[track(SILENT)]["score"] == pytest.approx(mean * tracks[track(SILENT)]["rating"], abs=1e-3)


def test_a_video_by_its_vectors(ask: Ask, places: Places, musical: Recommender, metrics: LocalMetrics) -> None:
    vectors = {"audio": [0.1] * 6, "cover": [1, 2.5]}
    assert ask(user_id="u3", vectors=vectors) == ask(user_id="u3", video_id="v2")
    assert places.asked == [(musical.bundle.version, vectors)]
    assert metrics.value("music_total", kind="vectors") == 1


def test_a_video_that_was_added(ask: Ask, places: Places, musical: Recommender) -> None:
    musical.store.add_video("new", "", AddedVideo({"video_id": "new", "title": "x"}).to_json())
    musical.refresh(now_ms())
    assert ask(video_id="new") == ask(video_id="v2")
    assert places.asked == [(musical.bundle.version, "new")]
    places.place = None  # nothing of it is known in the space
    tracks = ask(video_id="new", k=3)
    assert {each["fit"] for each in tracks} == {None}
    assert [each["score"] for each in tracks] == [each["rating"] for each in tracks]


def test_without_search_a_video_has_its_place_from_the_bundle_and_vectors_are_refused(
    musical: Recommender, music_world: Config, metrics: LocalMetrics, listen: Listen, ask: Ask
) -> None:
    client = listen(api(musical, music_world, metrics, None))
    assert client.post("/v1/music", json={"video_id": "v2"}).json()["tracks"] == ask(video_id="v2")
    sentence = error(client.post("/v1/music", json={"vectors": {"audio": [1.0] * 6}}), 422)
    assert sentence.startswith("vectors: this service can't compare them with tracks; that takes a section `search`")
    musical.store.add_video("new", "", AddedVideo({"video_id": "new"}).to_json())
    musical.refresh(now_ms())
    assert {each["fit"] for each in client.post("/v1/music", json={"video_id": "new"}).json()["tracks"]} == {None}


WRONG: list[tuple[Any, int, str]] = [
    ({}, 422, "give either video_id or vectors"),
    ({"video_id": "v2", "vectors": {"audio": [1.0]}}, 422, "give either video_id or vectors"),
    ({"video_id": "v99"}, 404, "there is no video 'v99'"),
    ({"video_id": ""}, 422, "video_id: must not be empty"),
    ({"video_id": 7}, 422, "video_id: must be a string (got 7)"),
    ({"video_id": "v2", "user_id": ""}, 422, "user_id: must not be empty"),
    ({"video_id": "v2", "k": 0}, 422, "k: must be 1 or more (got 0)"),
    ({"video_id": "v2", "k": 21}, 422, "k: an answer holds at most 20 tracks (music.max_k), not 21"),
    ({"video_id": "v2", "user": "u3"}, 422, "unknown field 'user'; did you mean 'user_id'?"),
    ({"vectors": {"audoi": [1.0]}}, 422, "unknown field 'vectors.audoi'; did you mean 'audio'?"),
    ({"vectors": {"audio": []}}, 422, "vectors.audio: must not be empty"),
    ({"vectors": {"audio": "loud"}}, 422, "vectors.audio: must be a list"),
    ({"vectors": {"audio": [1e31]}}, 422, "vectors.audio.0: must be 1e+30 or less"),
    ({"vectors": {"audio": ["1"]}}, 422, "vectors.audio.0: must be a number"),
    ({"vectors": []}, 422, "vectors: must be an object"),
    ([], 422, "the body"),
]


def test_a_wrong_request_gets_a_sentence(client: httpx.Client, places: Places, subtests: pytest.Subtests) -> None:
    for body, status, sentence in WRONG:
        with subtests.test(body=body):
            assert error(client.post("/v1/music", json=body), status).startswith(sentence)
    content = b'{"vectors": {"audio": [NaN]}}'
    assert "vectors.audio.0" in error(client.post("/v1/music", content=content, headers={"content-type": "application/json"}), 422)
    assert "application/json" in error(client.post("/v1/music", content=b"x", headers={"content-type": "audio/mpeg"}), 415)
    assert "larger than the 262,144 bytes" in error(client.post("/v1/music", json={"video_id": "v" * 2**18}), 413)
    assert places.asked == []


def test_what_the_search_cannot_place_is_a_sentence(client: httpx.Client, places: Places) -> None:
    body = {"vectors": {"audio": [1.0, 2.0]}}
    places.problem = SearchError(422, "vectors.audio: must hold 6 numbers")
    assert error(client.post("/v1/music", json=body), 422) == "vectors.audio: must hold 6 numbers"
    places.problem = OverloadedError("busy")
    assert error(client.post("/v1/music", json=body), 503) == BUSY


def test_a_bundle_without_music_says_how_it_gets_some(recommender: Recommender, listen: Listen) -> None:
    client = listen(api_of(recommender))
    sentence = error(client.post("/v1/music", json={"video_id": "v2"}), 404)
    assert sentence.startswith(f"bundle {recommender.bundle.version} has no music; add a section `music` to the config")
    assert error(client.get("/v1/tracks/t0/file"), 404) == "there is no track 't0'"
    assert client.get("/v1/dashboard").json()["tracks"] == 0


def test_a_canary_answers_its_users_from_its_own_music(
    musical: Recommender, recommender: Recommender, metrics: LocalMetrics, music_world: Config, listen: Listen
) -> None:
    arms = Arms(recommender, musical, 0.5)
    client = listen(create_api(lambda: arms, Serving(), Keys(), metrics, list, music=music_world.music))
    for number in range(20):
        user, answer = f"u{number}", client.post("/v1/music", json={"user_id": f"u{number}", "video_id": "v2"})
        assert (answer.status_code == 200) == (arms.arm_of(user)[1] is musical)
    assert client.get(f"/v1/tracks/{track(0)}/file").status_code == 200  # for whoever gets it named


def test_keys_are_needed_as_for_all_calls(musical: Recommender, music_world: Config, metrics: LocalMetrics, listen: Listen) -> None:
    client = listen(api(musical, music_world, metrics, None, ("first",)))
    for path in ("/v1/music", "/v1/tracks/t0/file"):
        ask = client.get if path.endswith("file") else lambda path, **more: client.post(path, json={"video_id": "v2"}, **more)
        assert ask(path).status_code == 401
        assert ask(path, headers=FIRST).status_code == 200


# --- sounds ---


def test_the_sound_of_a_track_is_sent_also_in_ranges(client: httpx.Client, ask: Ask) -> None:
    tracks = {each["track_id"]: each for each in ask(video_id="v2", k=12)}
    whole = client.get(tracks[track(0)]["file"])
    assert (whole.status_code, whole.content[:4]) == (200, b"RIFF")
    assert whole.headers["content-type"].endswith("wav")
    part = client.get(tracks[LONG]["file"], headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"RIFF")
    assert tracks[LONG]["file"] == f"/v1/tracks/{quote(LONG, safe='')}/file"
    web = client.get(tracks[track(2)]["file"], follow_redirects=False)
    assert (web.status_code, web.headers["location"]) == (307, WEB)


def test_no_other_file_is_sent(client: httpx.Client, ask: Ask) -> None:
    tracks = {each["track_id"]: each for each in ask(video_id="v2", k=12)}
    for number in (3, 4):  # /etc/passwd, and none
        assert tracks[track(number)]["file"] is None
    for number in (3, 4, 5):  # the last one's is gone
        sentence = f"track {track(number)!r} has no file that this service can send"
        assert error(client.get(f"/v1/tracks/{track(number)}/file"), 404) == sentence
    for name in ("nobody", "../../etc/passwd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/etc/passwd", "t0/../t3"):
        assert client.get(f"/v1/tracks/{name}/file").status_code == 404


def test_the_client_asks_for_music(client: httpx.Client, ask: Ask) -> None:
    with Client(str(client.base_url)) as service:
        answer = service.music("u3", video_id="v2", k=3)
        assert answer["tracks"] == ask(user_id="u3", video_id="v2", k=3)
        assert service.music(vectors={"audio": np.full(6, 0.1, np.float32)})["tracks"] == ask(video_id="v2")
        for given in ({}, {"video_id": "v2", "vectors": {"audio": [1.0]}}):
            with pytest.raises(ValueError, match="give either a video_id or vectors"):
                service.music("u3", **given)


def test_the_description_of_the_api_has_music(musical: Recommender, music_world: Config, metrics: LocalMetrics) -> None:
    description = api(musical, music_world, metrics, None).openapi()
    assert description["paths"]["/v1/music"]["post"]["summary"] == "Choose music for a video and a user"
    assert set(description["components"]["schemas"]["VideoVectors"]["properties"]) == {"image", "cover", "motion", "audio", "text"}
    assert description["components"]["schemas"]["MusicAnswer"]["examples"]
    assert "/v1/tracks/{track_id}/file" in description["paths"]
    assert video(2) == "v2"
