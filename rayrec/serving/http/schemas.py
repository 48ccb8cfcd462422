"""What goes in and out of the HTTP API, with an example of each, and the sentences for what does not fit."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from rayrec.errors import did_you_mean
from rayrec.serving.state.store import Kind

Id = Annotated[str, Field(min_length=1, max_length=512)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Value = Annotated[str, Field(max_length=512)] | int | Annotated[float, Field(allow_inf_nan=False)] | bool | None
MAX_EVENTS = 1000  # in one batch
MAX_CONTEXT = 50  # fields of one request


def example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


TOPIC = {"topic": 3, "words": ["guitar", "song"]}
VIDEO = {
    "video_id": "v7",
    "title": "A song in the rain",
    "tags": ["guitar", "rain"],
    "author_id": "bob",
    "primary_class": "music",
    "secondary_class": "covers",
    "published_at": 1763700000000,
    "duration_s": 12.5,
    "topics": [TOPIC | {"similarity": 0.83}],
    "cover": "/v1/videos/v7/cover",
    "file": "/v1/videos/v7/file",
}
EVENT = {
    "event_id": "e1",
    "user_id": "ann",
    "video_id": "v7",
    "kind": "watch",
    "watch_s": 4.5,
    "request_id": "9f2c",
    "arm": "stable",
}
REFUSED = {"event_id": "e9", "error": "there is no video 'v0'"}
QUEUED = {"video_id": "v7", "title": "A song in the rain", "ctr": 0.18, "exposures": 250, "cover": "/v1/videos/v7/cover"}
RECOMMENDED = VIDEO | {"score": 0.31, "why": "topic: guitar, song", "topic": 3}


class RecommendRequest(Request):
    model_config = example(user_id="ann", k=10, exclude=["v3"], blocked_authors=["eve"], context={"device": "phone"}, debug=True)

    user_id: Id
    k: int = Field(10, ge=1, description="how many videos")
    exclude: list[Id] = Field([], description="videos that must not be in the page")
    blocked_authors: list[Id] = Field([], description="authors of whom no video may be in the page")
    context: dict[Name, Value] = Field(
        {}, max_length=MAX_CONTEXT, description="values of the ranker's context fields; those that it lacks are unknown"
    )
    debug: bool = Field(False, description="also tell what each step took and left")


class EventIn(Request):
    model_config = example(**EVENT)

    event_id: Id = Field(description="made by the caller; sent twice, it counts once")
    user_id: Id
    video_id: Id
    kind: Kind = Field(description="an answer's videos are logged as impressions already")
    at: Annotated[int, Field(ge=0)] | None = Field(default=None, description="UTC milliseconds; now when not given")
    request_id: Id | None = Field(default=None, description="of the answer that the video was shown in")
    watch_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    arm: Name | None = Field(default=None, description="of the answer that the video was shown in")


class EventsRequest(Request):
    model_config = example(events=[EVENT])

    events: list[EventIn] = Field(min_length=1, max_length=MAX_EVENTS)


BODIES: dict[str, type[Request]] = {"/v1/recommend": RecommendRequest, "/v1/events": EventsRequest}


class ErrorAnswer(BaseModel):
    model_config = example(error="k: 500 videos are more than the 100 that one page may hold (serving.max_k)")

    error: str


class Refused(BaseModel):
    model_config = example(**REFUSED)

    event_id: str
    error: str


class EventsAnswer(BaseModel):
    model_config = example(received=4, new=2, refused=[REFUSED])

    received: int
    new: int = Field(description="how many of them were not known before; these are on the disk")
    refused: list[Refused] = Field([], description="those that were not kept; sent again they would be refused again")


class Ready(BaseModel):
    model_config = example(bundle="20261121-101500-3f2a")

    bundle: str | None = Field(description="the version in use")


class Topic(BaseModel):
    model_config = example(**TOPIC, videos=120)

    topic: int
    words: list[str] = Field(description="its most typical tags")
    videos: int


class UserTopic(BaseModel):
    model_config = example(**TOPIC, clicks=4)

    topic: int
    words: list[str]
    clicks: int = Field(description="how many of the user's last clicks are on it")


class ScoredTopic(BaseModel):
    model_config = example(**TOPIC, similarity=0.83)

    topic: int
    words: list[str]
    similarity: float = Field(description="cosine with the topic's centre")


class User(BaseModel):
    model_config = example(user_id="ann", clicks=12, seen=80, topics=[TOPIC | {"clicks": 4}])

    user_id: str
    clicks: int = Field(description="the last clicks that speak for the user")
    seen: int = Field(description="the last videos that the user was shown")
    topics: list[UserTopic] = Field(description="the topics that are searched for the user")


class Forgotten(BaseModel):
    model_config = example(events=92)

    events: int = Field(description="how many of the user's events were deleted")


class Withdrawn(BaseModel):
    model_config = example(video_id="v7", withdrawn=True)

    video_id: str
    withdrawn: bool = Field(description="whether it is kept out of all pages; replicas follow within serving.refresh_s")


class Video(BaseModel):
    model_config = example(**VIDEO)

    video_id: str
    title: str | None = None
    tags: list[str] = []
    author_id: str | None = None
    primary_class: str | None = None
    secondary_class: str | None = None
    published_at: int | None = Field(default=None, description="UTC milliseconds")
    duration_s: float | None = None
    topics: list[ScoredTopic] = []
    cover: str | None = Field(default=None, description="path of the cover, JPEG")
    file: str | None = Field(default=None, description="path of the video file")


class SimilarVideo(Video):
    model_config = example(**VIDEO, likeness=0.92)

    likeness: float = Field(description="cosine of the two videos' vectors, or how alike their topics are where there are none")


class SimilarAnswer(BaseModel):
    model_config = example(video_id="v3", videos=[VIDEO | {"likeness": 0.92}])

    video_id: str
    videos: list[SimilarVideo] = Field(description="the most similar first")


class RecommendedVideo(Video):
    model_config = example(**RECOMMENDED)

    score: float = Field(description="the probability that the user clicks it")
    why: str = Field(description="the topic that brought it, `popular` or `new`")
    topic: int | None = None


class StepTime(BaseModel):
    model_config = example(step="source", milliseconds=0.42, count=600)

    step: str
    milliseconds: float
    count: int = Field(description="clicks after hydrate, candidates after the others, videos from select on")


class Debug(BaseModel):
    model_config = example(steps=[{"step": "source", "milliseconds": 0.42, "count": 600}])

    steps: list[StepTime]


class RecommendAnswer(BaseModel):
    model_config = example(request_id="9f2c", arm="stable", bundle="20261121-101500-3f2a", videos=[RECOMMENDED], debug=None)

    request_id: str = Field(description="to be sent with the events of these videos, as `arm` is")
    arm: str = Field(description="`stable`, or `canary` for users who try a new bundle")
    bundle: str = Field(description="the version that answered")
    videos: list[RecommendedVideo] = Field(description="the best first; fewer than k only when the catalog has no more")
    debug: Debug | None = None


class Arm(BaseModel):
    model_config = example(arm="stable", bundle="20261121-101500-3f2a", share=0.9)

    arm: str
    bundle: str
    share: float = Field(description="of the users who get it")


class QueuedVideo(BaseModel):
    model_config = example(**QUEUED)

    video_id: str
    title: str | None
    ctr: float = Field(description="clicks by exposures, of the log and since")
    exposures: int
    cover: str | None


class Queue(BaseModel):
    model_config = example(**TOPIC, videos=120, first=[QUEUED])

    topic: int
    words: list[str]
    videos: int = Field(description="in the queue")
    first: list[QueuedVideo]


class Traffic(BaseModel):
    model_config = example(at=1763700000000, impressions=5000, clicks=610)

    at: int = Field(description="start of the hour, UTC milliseconds")
    impressions: int
    clicks: int


class SwapMade(BaseModel):
    model_config = example(at=1763700000000, bundle="20261121-101500-3f2a", canary=None, share=0.0, outcome="done")

    at: int = Field(description="UTC milliseconds")
    bundle: str
    canary: str | None = None
    share: float = Field(description="of the users who get the canary")
    outcome: str = Field(description="`done`, or why the bundle was refused")


class Dashboard(BaseModel):
    model_config = example(
        arms=[{"arm": "stable", "bundle": "20261121-101500-3f2a", "share": 1.0}],
        queues=[TOPIC | {"videos": 120, "first": [QUEUED]}],
        traffic=[{"at": 1763700000000, "impressions": 5000, "clicks": 610}],
        metrics={"auc": 0.74},
        swaps=[{"at": 1763700000000, "bundle": "20261121-101500-3f2a", "canary": None, "share": 0.0, "outcome": "done"}],
        users=["ann"],
        refreshed_at=1763700000000,
    )

    arms: list[Arm]
    queues: list[Queue] = Field(description="of the stable arm, the longest first")
    traffic: list[Traffic] = Field(description="the last 24 hours")
    metrics: dict[str, float] = Field(description="of the stable bundle's ranker, when it was evaluated before it was published")
    swaps: list[SwapMade] = Field(description="the oldest first")
    users: list[str] = Field(description="some of the busiest users of the log")
    refreshed_at: int = Field(description="when the queues followed the events last, UTC milliseconds")


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "The request can't be answered; the sentence says what to change."},
    503: {"model": ErrorAnswer, "description": "Busy or starting; Retry-After says when to try again."},
}


def sentence(problem: dict[str, Any], route: str) -> str:
    """A pydantic error in a request to `route`, as one sentence."""
    path = [str(part) for part in problem["loc"][problem["loc"][:1] in (("body",), ("path",), ("query",)) :]]
    if problem["type"] == "json_invalid":
        return f"the body is not valid JSON: {problem['ctx']['error']} at character {problem['loc'][-1]}"
    if path[0:1] == ["context"] and len(path) > 1:
        return f"context.{path[1][:80]}: give a name of 1 to 64 characters and a number, true, false, null or a text of at most 512"
    key = ".".join(path) or "the body"
    if problem["type"] == "extra_forbidden":
        model = EventIn if len(path) == 3 else BODIES[route]
        return f"unknown field {key!r}{did_you_mean(path[-1], list(model.model_fields))}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    return f"{key}: {problem['msg']} (got {ascii(problem['input'])[:80]})"
