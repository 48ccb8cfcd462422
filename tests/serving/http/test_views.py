"""What clients say of visits and views over HTTP, and what they are told of videos that come again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayrec.config import Config
from rayrec.serving.bundle import Bundle
from rayrec.serving.recommender import Recommender
from rayrec.serving.state.sqlite import SqliteStore
from tests.serving.http.helpers import Listen, api_of, click, error
from tests.serving.small_world import rank_by_number


@pytest.fixture
def seeing(bundle: Bundle, published: Config, tmp_path: Path) -> Iterator[Recommender]:
    """A recommender whose clients report views."""
    store = SqliteStore(tmp_path / "views.db", "view")
    yield Recommender(bundle, store, rank_by_number, published.recall, published.selection, seed=0)
    store.close()


@pytest.fixture
def told(seeing: Recommender, listen: Listen) -> httpx.Client:
    return listen(api_of(seeing, views="reported"))


def kept(recommender: Recommender, kind: str) -> list[dict[str, Any]]:
    return [row for piece in recommender.store.read(0, None) for row in piece.to_pylist() if row["kind"] == kind]


def recommend(client: httpx.Client, **body: Any) -> dict[str, Any]:
    return client.post("/v1/recommend", json={"user_id": "new"} | body).json()


def test_views_are_kept_with_their_time_and_imply_what_was_seen(told: httpx.Client, seeing: Recommender) -> None:
    page = recommend(told, k=4, session_id="visit", page_number=3)
    ids = [video["video_id"] for video in page["videos"]]
    of_page = {"user_id": "new", "request_id": page["request_id"], "arm": page["arm"]}
    view = of_page | {"event_id": "v", "video_id": ids[0], "kind": "view", "dwell_s": 1.5}
    skip = of_page | {"event_id": "s", "video_id": ids[1], "kind": "skip"}
    answer = told.post("/v1/events", json={"events": [view, skip]}).json()
    assert answer == {"received": 2, "new": 2, "duplicates": [], "refused": []}
    assert [(row["video_id"], row["dwell_s"]) for row in kept(seeing, "view")] == [(ids[0], 1.5), (ids[1], None)]
    shown = kept(seeing, "impression")
    assert [row["position"] for row in shown] == [0, 1, 2, 3]
    assert {(row["session_id"], row["page_number"]) for row in shown} == {("visit", 3)}
    again = told.post("/v1/events", json={"events": [view, skip]}).json()
    assert again == {"received": 2, "new": 0, "duplicates": ["v", "s"], "refused": []}
    assert len(kept(seeing, "view")) == 2
    assert told.get("/v1/users/new").json()["seen"] == 2
    assert told.get("/v1/dashboard").json()["traffic"][-1]["impressions"] == 2
    assert not set(ids) & {video["video_id"] for video in recommend(told, k=36)["videos"]}  # nor what waits on the screen


def test_an_answer_says_which_videos_come_again(client: httpx.Client) -> None:
    first = [video["video_id"] for video in recommend(client, k=40)["videos"]]
    page = recommend(client, k=3, debug=True)
    assert [video["video_id"] for video in page["videos"]] == first[:3]
    assert {(video["why"], video["topic"]) for video in page["videos"]} == {("again", None)}
    assert [(step["step"], step["count"]) for step in page["debug"]["steps"][-2:]] == [("again", 3), ("log", 3)]


def test_where_views_are_assumed_they_are_kept_and_change_nothing(client: httpx.Client, recommender: Recommender) -> None:
    assert client.post("/v1/events", json={"events": [click(1, kind="view"), click(2)]}).json()["new"] == 2
    assert [row["video_id"] for row in kept(recommender, "view")] == ["v1"]
    assert recommender.store.traffic(0, 3_600_000)[-1].impressions == 0


def test_a_visit_and_a_time_in_view_are_checked(client: httpx.Client) -> None:
    wrong = client.post("/v1/recommend", json={"user_id": "u", "page_number": -1})
    assert error(wrong, 422).startswith("page_number: must be 0 or more")
    wrong = client.post("/v1/events", json={"events": [click(1, kind="view", dwell_s=-1)]})
    assert error(wrong, 422).startswith("events.0.dwell_s: must be 0 or more")
