"""The requests and answers of the HTTP API, each with an example."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rayrec.serving.state.store import Kind
from rayrec.values import text_of

# The id of a user, a video or an author has its canonical text, which the tables hold.
Id = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(text_of)]
OwnId = Annotated[str, Field(min_length=1, max_length=512)]  # an id that only the caller gives a meaning
Path = Annotated[str, Field(min_length=1, max_length=4096)]  # of a file, or a URI
Name = Annotated[str, Field(min_length=1, max_length=64)]
Value = Annotated[str, Field(max_length=512)] | int | Annotated[float, Field(allow_inf_nan=False)] | bool | None
MAX_EVENTS = 1000  # in one batch
MAX_CONTEXT = 50  # fields of one request
MAX_WATCH_S = 86_400.0  # in one event: a day
MAX_TEXT = 1000  # characters of a query
MinScore = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
MIN_SCORE = "only videos with a higher score; by default the floor that was learned, below which nothing is relevant"


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
FILTERS = {"class": "music", "author": None, "since": 1763700000000}
RECOMMENDED = VIDEO | {"score": 0.31, "why": "topic: guitar, song", "topic": 3}


class RecommendRequest(Request):
    model_config = example(user_id="ann", k=10, exclude=["v3"], blocked_authors=["eve"], context={"device": "phone"}, debug=True)

    user_id: Id
    k: int = Field(10, ge=1, description="number of videos")
    exclude: list[Id] = Field([], description="ids of videos that must not be in the page")
    blocked_authors: list[Id] = Field([], description="ids of authors whose videos must not be in the page")
    context: dict[Name, Value] = Field(
        {}, max_length=MAX_CONTEXT, description="values of the ranker's context fields; a field without a value counts as unknown"
    )
    debug: bool = Field(False, description="also report the time of each step and the number of candidates that it left")


class EventIn(Request):
    model_config = example(**EVENT)

    event_id: OwnId = Field(description="chosen by the caller, for each user; an event that is sent twice counts once")
    user_id: Id
    video_id: Id
    kind: Kind = Field(description="impressions need not be sent: the videos of an answer are logged as shown")
    at: Annotated[int, Field(ge=0)] | None = Field(default=None, description="UTC milliseconds; by default the time of arrival")
    request_id: OwnId | None = Field(default=None, description="that of the answer in which the video was shown")
    watch_s: Annotated[float, Field(ge=0, le=MAX_WATCH_S, allow_inf_nan=False)] | None = Field(
        default=None, description="seconds; an event of kind `watch` needs it"
    )
    arm: Name | None = Field(default=None, description="that of the answer in which the video was shown")


class EventsRequest(Request):
    model_config = example(events=[EVENT])

    events: list[EventIn] = Field(min_length=1, max_length=MAX_EVENTS)


class SearchFilters(Request):
    model_config = example(**FILTERS)

    class_: Name | None = Field(default=None, alias="class", description="only videos of this primary or secondary class")
    author: Id | None = Field(default=None, description="only videos of this author")
    since: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        default=None, description="only videos that were published at this time (UTC milliseconds) or later"
    )


class SearchRequest(Request):
    model_config = example(text="a song in the rain", filters=FILTERS, k=10)

    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] = Field(description="what the videos should be about")
    filters: SearchFilters = SearchFilters()
    k: int = Field(10, ge=1, description="the number of videos at most")
    min_score: MinScore | None = Field(default=None, description=MIN_SCORE)


NEW_VIDEO = {
    "video_id": "v900",
    "uri": "2026/rain.mp4",
    "title": "A song in the rain",
    "tags": ["guitar", "rain"],
    "author_id": "bob",
    "primary_class": "music",
}


class NewVideo(Request):
    model_config = example(**NEW_VIDEO)

    video_id: Id | None = Field(default=None, description="by default one is made from the file; sending a video again is safe")
    uri: Path | None = Field(default=None, description="a file below one of `serving.uploads.media_roots`, instead of a body")
    cover_uri: Path | None = Field(default=None, description="the publisher's own cover, a picture file below one of these")
    title: Annotated[str, Field(max_length=10_000)] | None = None
    tags: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field([], max_length=200)
    primary_class: Id | None = None
    secondary_class: Id | None = None
    author_id: Id | None = None
    published_at: Annotated[int, Field(ge=0, lt=253_402_300_800_000)] | None = Field(  # the year 10,000, as for `ingest`
        default=None, description="UTC milliseconds; by default the time of arrival"
    )


BODIES: dict[str, type[Request]] = {
    "/v1/recommend": RecommendRequest,
    "/v1/events": EventsRequest,
    "/v1/search": SearchRequest,
    "/v1/videos": NewVideo,
}


class ErrorAnswer(BaseModel):
    model_config = example(error="k: a page holds at most 100 videos (serving.max_k), not 500")

    error: str


class Refused(BaseModel):
    model_config = example(**REFUSED)

    event_id: str
    error: str


class EventsAnswer(BaseModel):
    model_config = example(received=4, new=2, duplicates=["e2"], refused=[REFUSED])

    received: int
    new: int = Field(description="number of events that were not known before; they are on the disk")
    duplicates: list[str] = Field(
        [],
        description="event_ids that the same user's earlier events have; these events were not kept, nor need they be sent again",
    )
    refused: list[Refused] = Field([], description="events that were not kept; sending them again does not help")


class Ready(BaseModel):
    model_config = example(bundle="20261121-101500-3f2a")

    bundle: str | None = Field(description="version of the bundle in use")


class Topic(BaseModel):
    model_config = example(**TOPIC, videos=120)

    topic: int
    words: list[str] = Field(description="the most typical tags of the topic")
    videos: int


class UserTopic(BaseModel):
    model_config = example(**TOPIC, clicks=4)

    topic: int
    words: list[str]
    clicks: int = Field(description="number of the user's latest clicks on videos of this topic")


class ScoredTopic(BaseModel):
    model_config = example(**TOPIC, similarity=0.83)

    topic: int
    words: list[str]
    similarity: float = Field(description="cosine similarity of the video and the centre of the topic")


class User(BaseModel):
    model_config = example(user_id="ann", clicks=12, seen=80, topics=[TOPIC | {"clicks": 4}])

    user_id: str
    clicks: int = Field(description="number of the user's latest clicks that recommendations are based on")
    seen: int = Field(description="number of the latest videos that the user was shown")
    topics: list[UserTopic] = Field(description="topics from which videos are recommended to the user")


class Forgotten(BaseModel):
    model_config = example(events=92)

    events: int = Field(description="number of the user's events that were deleted")


class Withdrawn(BaseModel):
    model_config = example(video_id="v7", withdrawn=True)

    video_id: str
    withdrawn: bool = Field(description="whether the video is kept out of all pages; takes effect within serving.refresh_s")


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
    cover: str | None = Field(default=None, description="path of the cover, a JPEG")
    file: str | None = Field(default=None, description="path of the video file")


class AddedAnswer(BaseModel):
    model_config = example(video_id="v7", status="ready", video=VIDEO, fault=None)

    video_id: str
    status: Literal["ready", "waiting"] = Field(description="`ready` if the video may be in pages now")
    video: Video | None = None
    fault: str | None = Field(default=None, description="what of the file could not be read; the rest of it is used")


class UploadStatus(BaseModel):
    model_config = example(video_id="v7", status="rejected", error="the file is empty")

    video_id: str
    status: Literal["ready", "waiting", "rejected"]
    error: str | None = Field(default=None, description="why it was rejected")


class SimilarVideo(Video):
    model_config = example(**VIDEO, likeness=0.92)

    likeness: float = Field(description="similarity of the videos' vectors (cosine), or of their topics if there are no vectors")


class SimilarAnswer(BaseModel):
    model_config = example(video_id="v3", videos=[VIDEO | {"likeness": 0.92}])

    video_id: str
    videos: list[SimilarVideo] = Field(description="the most similar first")


class FoundVideo(Video):
    model_config = example(**VIDEO, score=0.71)

    score: float = Field(description="cosine of query and video in the space of search, nearer to 1 if it has words of the query")


class SearchAnswer(BaseModel):
    model_config = example(bundle="20261121-101500-3f2a", videos=[VIDEO | {"score": 0.71}], tags=["guitar"], min_score=0.35)

    bundle: str = Field(description="version of the bundle that answered")
    videos: list[FoundVideo] = Field(description="the best first; none if nothing is relevant")
    tags: list[str] = Field(description="the tags nearest to the query, towards whose videos it was moved")
    min_score: float = Field(description="the score above which a video counts as found")


class RecommendedVideo(Video):
    model_config = example(**RECOMMENDED)

    score: float = Field(description="the probability that the user clicks it")
    why: str = Field(description="why the video is in the page: its topic, or `popular`, `new`, `similar` or `taste`")
    topic: int | None = None


class StepTime(BaseModel):
    model_config = example(step="source", milliseconds=0.42, count=600)

    step: str
    milliseconds: float
    count: int = Field(description="clicks after the step hydrate, videos from select on, candidates otherwise")


class Debug(BaseModel):
    model_config = example(steps=[{"step": "source", "milliseconds": 0.42, "count": 600}])

    steps: list[StepTime]


class RecommendAnswer(BaseModel):
    model_config = example(
        request_id="9f2c", arm="stable", bundle="20261121-101500-3f2a", videos=[RECOMMENDED], logged=True, debug=None
    )

    request_id: str = Field(description="to be sent with the events of these videos, like `arm`")
    arm: str = Field(description="`stable`, or `canary` for users who get a new bundle on trial")
    bundle: str = Field(description="version of the bundle that answered")
    videos: list[RecommendedVideo] = Field(description="the best first; there are fewer than k only if the catalog has no more")
    logged: bool = Field(
        True,
        description="whether the videos are stored as shown; if not, the store can't write now, and a later page may repeat them",
    )
    debug: Debug | None = None


class Arm(BaseModel):
    model_config = example(arm="stable", bundle="20261121-101500-3f2a", share=0.9)

    arm: str
    bundle: str
    share: float = Field(description="share of the users who get this arm")


class QueuedVideo(BaseModel):
    model_config = example(**QUEUED)

    video_id: str
    title: str | None
    ctr: float = Field(description="clicks divided by exposures, in the training log and since then")
    exposures: int
    cover: str | None


class Queue(BaseModel):
    model_config = example(**TOPIC, videos=120, first=[QUEUED])

    topic: int
    words: list[str]
    videos: int = Field(description="number of videos in the queue")
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
    share: float = Field(description="share of the users who get the canary")
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
    queues: list[Queue] = Field(description="queues of the stable arm, the longest first")
    traffic: list[Traffic] = Field(description="the last 24 hours")
    metrics: dict[str, float | None] = Field(
        description="offline metrics of the stable bundle's ranker, if it was evaluated; null where one is not defined"
    )
    swaps: list[SwapMade] = Field(description="the oldest first")
    users: list[str] = Field(description="some users with the most clicks in the training log")
    refreshed_at: int = Field(description="when the queues last took in the events, UTC milliseconds")
