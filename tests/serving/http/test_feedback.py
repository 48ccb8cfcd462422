"""What users say of videos, over HTTP: it is refused or kept, it changes the next page, and it is shown and forgotten."""

from typing import Any

import httpx
import pytest

from tests.serving.http.helpers import click, error
from tests.serving.small_world import topic_of

AUTHORLESS = 33  # on topic 1; the authors of the videos from 32 on are not known


def send(client: httpx.Client, number: int, kind: str) -> httpx.Response:
    return client.post("/v1/events", json={"events": [click(number, kind=kind, event_id=f"{kind}-{number}")]})


def ask(client: httpx.Client, user: str = "new", **fields: object) -> dict[str, Any]:
    return client.post("/v1/recommend", json={"user_id": user, "k": 10} | fields).raise_for_status().json()


def numbers(answer: dict[str, Any]) -> list[int]:
    return [int(video["video_id"][1:]) for video in answer["videos"]]


def test_the_page_after_the_acknowledgement_obeys_and_says_why(client: httpx.Client) -> None:
    before = ask(client, exclude=["v33"], debug=True)
    assert sum(topic_of(n) == 1 for n in numbers(before)) >= 2
    assert not any("feedback" in video for video in before["videos"])
    assert "feedback" not in before["debug"]
    assert send(client, AUTHORLESS, "less_topic").json()["new"] == 1
    assert send(client, 34, "like").json()["new"] == 1
    after = ask(client, debug=True)
    assert sum(topic_of(n) == 1 for n in numbers(after)) == 0
    assert after["debug"]["feedback"]["lowered"] > 0
    assert after["debug"]["feedback"]["raised"] > 0
    liked = [video for video in after["videos"] if topic_of(int(video["video_id"][1:])) == 2]
    assert liked
    for video in liked:
        assert video["feedback"]["kind"] == "like"
        assert video["feedback"]["factor"] > 1.3


def test_what_a_user_said_is_shown_and_taken_back(client: httpx.Client) -> None:
    for number, kind in ((AUTHORLESS, "less_topic"), (7, "block_author"), (8, "skip")):
        send(client, number, kind)
    said = client.get("/v1/users/new").json()["feedback"]
    assert [(each["kind"], each["video_id"]) for each in said] == [("skip", "v8"), ("block_author", "v7"), ("less_topic", "v33")]
    assert [each["left"] for each in said] == pytest.approx([1, 1, 1], abs=0.001)
    assert (said[1]["author_id"], said[1]["title"]) == ("a2", "<b>Clip</b> 7 of cakes")
    assert (said[2]["topic"], said[2]["words"]) == (1, ["sea", "beach"])
    assert not {2, 7, 12, 17, 22, 27} & set(numbers(ask(client, k=40)))
    send(client, AUTHORLESS, "undo")
    send(client, 12, "unblock_author")
    assert [each["kind"] for each in client.get("/v1/users/new").json()["feedback"]] == ["skip"]
    assert client.get("/v1/users/other").json()["feedback"] == []
    client.delete("/v1/users/new")
    assert client.get("/v1/users/new").json()["feedback"] == []


@pytest.mark.parametrize("kind", ["less_author", "block_author", "unblock_author"])
def test_a_wish_about_nobody_is_refused(client: httpx.Client, kind: str) -> None:
    sentence = error(send(client, AUTHORLESS, kind), 422)
    assert sentence == f"events.0: {kind}: the author of video 'v33' is not known"


def test_feedback_on_an_unknown_video_is_refused(client: httpx.Client) -> None:
    assert error(send(client, 999, "not_interested"), 422) == "events.0: there is no video 'v999'"
