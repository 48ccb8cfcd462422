"""What goes in and out of the HTTP API, and the sentences for what does not fit."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from rayrec.serving.store import Kind
from rayrec.tables import did_you_mean

Id = Annotated[str, Field(min_length=1, max_length=512)]
MOST_EVENTS = 1000  # in one batch


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RecommendRequest(Request):
    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "ann", "k": 10}]})

    user_id: Id
    k: int = Field(10, ge=1, description="how many videos")
    exclude: list[Id] = Field([], description="videos that must not be in the page")
    debug: bool = Field(False, description="also tell what each step took and left")


class EventIn(Request):
    event_id: Id = Field(description="made by the caller; sent twice, it counts once")
    user_id: Id
    video_id: Id
    kind: Kind = Field(description="an answer's videos are logged as impressions already")
    at: Annotated[int, Field(ge=0)] | None = Field(default=None, description="UTC milliseconds; now when not given")
    request_id: Id | None = Field(default=None, description="of the answer that the video was shown in")
    watch_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class EventsRequest(Request):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"events": [{"event_id": "e1", "user_id": "ann", "video_id": "v7", "kind": "watch", "watch_s": 4.5}]}]
        }
    )

    events: list[EventIn] = Field(min_length=1, max_length=MOST_EVENTS)


BODIES: dict[str, type[Request]] = {"/v1/recommend": RecommendRequest, "/v1/events": EventsRequest}


class ErrorAnswer(BaseModel):
    error: str


class EventsAnswer(BaseModel):
    received: int
    new: int = Field(description="how many of them were not known before")


class Ready(BaseModel):
    bundle: str | None = Field(description="the version in use")


class Topic(BaseModel):
    topic: int
    words: list[str] = Field(description="its most typical tags")
    videos: int


class UserTopic(BaseModel):
    topic: int
    words: list[str]
    clicks: int = Field(description="how many of the user's last clicks are on it")


class ScoredTopic(BaseModel):
    topic: int
    words: list[str]
    similarity: float = Field(description="cosine with the topic's centre")


class User(BaseModel):
    user_id: str
    clicks: int = Field(description="the last clicks that speak for the user")
    seen: int = Field(description="the last videos that the user was shown")
    topics: list[UserTopic] = Field(description="the topics that are searched for the user")


class Video(BaseModel):
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


class RecommendedVideo(Video):
    score: float = Field(description="the probability that the user clicks it")
    why: str = Field(description="the topic that brought it, `popular` or `new`")
    topic: int | None = None


class StepTime(BaseModel):
    step: str
    milliseconds: float
    count: int = Field(description="clicks after hydrate, candidates after the others, videos from select on")


class Debug(BaseModel):
    steps: list[StepTime]


class RecommendAnswer(BaseModel):
    request_id: str
    bundle: str
    videos: list[RecommendedVideo]
    debug: Debug | None = None


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "The request can't be answered; the sentence says what to change."},
    503: {"model": ErrorAnswer, "description": "Busy or starting; Retry-After says when to try again."},
}


def sentence(problem: dict[str, Any], route: str) -> str:
    """A pydantic error in the body of a POST to `route`, as one sentence."""
    path = [str(part) for part in problem["loc"] if part != "body"]
    if problem["type"] == "json_invalid":
        return f"the body is not valid JSON: {problem['ctx']['error']} at character {problem['loc'][-1]}"
    key = ".".join(path) or "the body"
    if problem["type"] == "extra_forbidden":
        model = EventIn if len(path) == 3 else BODIES[route]
        return f"unknown field {key!r}{did_you_mean(path[-1], list(model.model_fields))}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    return f"{key}: {problem['msg']} (got {ascii(problem['input'])[:80]})"
