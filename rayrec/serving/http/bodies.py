"""What callers send to the HTTP API: the bodies of requests, each with an example."""

import time
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rayrec.config.goals import MAX_FORMULA
from rayrec.datasets.times import DAY_MS, YEAR_1990, other_unit
from rayrec.values import text_of

# The id of a user, a video or an author has its canonical text, which the tables hold.
Id = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(text_of)]
OwnId = Annotated[str, Field(min_length=1, max_length=512)]  # an id that only the caller gives a meaning
Path = Annotated[str, Field(min_length=1, max_length=4096)]  # of a file, or a URI
Name = Annotated[str, Field(min_length=1, max_length=64)]
OwnKind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]  # of an event; those that `serving.event_kinds` names
Value = Annotated[str, Field(max_length=512)] | int | Annotated[float, Field(allow_inf_nan=False)] | bool | None
MAX_EVENTS = 1000  # in one batch
MAX_VIDEOS = 100  # in one list
MAX_CONTEXT = 50  # fields of one request
MAX_WATCH_S = 86_400.0  # in one event: a day
MAX_AHEAD_DAYS = 366  # of a video that is to be published later
MAX_TEXT = 1000  # characters of a query
MinScore = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
MIN_SCORE = "only videos with a higher score; by default the floor that was learned, below which nothing is relevant"


def _plausible(ms: int) -> int:
    """Raises `ValueError` for a time that must be a mistake, such as one in seconds or microseconds."""
    if ms < YEAR_1990:
        raise ValueError(f"must be a time of 1990 or later in UTC milliseconds{other_unit(ms)}")
    if ms > time.time() * 1000 + MAX_AHEAD_DAYS * DAY_MS:
        raise ValueError(f"must be at most {MAX_AHEAD_DAYS} days ahead in UTC milliseconds{other_unit(ms)}")
    return ms


Time = Annotated[int, AfterValidator(_plausible), Field(json_schema_extra={"minimum": YEAR_1990})]  # UTC milliseconds


def example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


EVENT = {
    "event_id": "e1",
    "user_id": "ann",
    "video_id": "v7",
    "kind": "watch",
    "watch_s": 4.5,
    "request_id": "9f2c",
    "arm": "stable",
}
FILTERS = {"class": "music", "author": None, "since": 1763700000000}


class RecommendRequest(Request):
    model_config = example(
        user_id="ann", k=10, exclude=["v3"], blocked_authors=["eve"], context={"device": "phone"}, session_id="7c1e", page_number=0
    )

    user_id: Id
    k: int = Field(10, ge=1, description="number of videos")
    exclude: list[Id] = Field([], description="ids of videos that must not be in the page")
    blocked_authors: list[Id] = Field([], description="ids of authors whose videos must not be in the page")
    context: dict[Name, Value] = Field(
        {}, max_length=MAX_CONTEXT, description="values of the ranker's context fields; a field without a value counts as unknown"
    )
    session_id: OwnId | None = Field(
        default=None, description="the visit that the page belongs to, any text; it goes into the log with the number of the page"
    )
    page_number: Annotated[int, Field(ge=0, le=10**6)] | None = Field(
        default=None, description="the number of the page in the session"
    )
    score: Annotated[str, Field(min_length=1, max_length=MAX_FORMULA)] | None = Field(
        default=None,
        description="a formula of the ranker's goals by which this page is ordered, such as `click * finish^0.5`, instead of "
        "`selection.score`; for keys in `serving.trusted_keys` alone",
    )
    debug: bool = Field(
        False,
        description="also report the time of each step, the number of candidates that it left and, to keys in "
        "`serving.trusted_keys`, what the ranker predicts of each of its goals",
    )


class EventIn(Request):
    model_config = example(**EVENT)

    event_id: OwnId = Field(description="chosen by the caller, for each user; an event that is sent twice counts once")
    user_id: Id
    video_id: Id
    kind: OwnKind = Field(
        description="impressions need not be sent: the videos of an answer are logged as delivered. A `view` says that one of them "
        "came into view; with `serving.views: reported`, only such videos count as seen. `serving.event_kinds` adds kinds"
    )
    at: Annotated[int, Field(ge=0)] | None = Field(default=None, description="UTC milliseconds; by default the time of arrival")
    request_id: OwnId | None = Field(default=None, description="that of the answer in which the video was shown")
    watch_s: Annotated[float, Field(ge=0, le=MAX_WATCH_S, allow_inf_nan=False)] | None = Field(
        default=None, description="seconds; an event of kind `watch` needs it"
    )
    arm: Name | None = Field(default=None, description="that of the answer in which the video was shown")
    dwell_s: Annotated[float, Field(ge=0, le=MAX_WATCH_S, allow_inf_nan=False)] | None = Field(
        default=None, description="seconds that the video was in view; an event of kind `view` may have it"
    )


class EventsRequest(Request):
    model_config = example(events=[EVENT])

    events: list[EventIn] = Field(min_length=1, max_length=MAX_EVENTS)


class SearchFilters(Request):
    model_config = example(**FILTERS)

    class_: Name | None = Field(default=None, alias="class", description="only videos of this primary or secondary class")
    author: Id | None = Field(default=None, description="only videos of this author")
    since: Time | None = Field(default=None, description="only videos that were published at this time (UTC milliseconds) or later")


class SearchRequest(Request):
    model_config = example(text="a song in the rain", filters=FILTERS, k=10)

    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] = Field(description="what the videos should be about")
    filters: SearchFilters = SearchFilters()
    k: int = Field(10, ge=1, description="the number of videos at most")
    min_score: MinScore | None = Field(default=None, description=MIN_SCORE)


# Numbers that float32 holds also when they have been scaled.
Feature = Annotated[list[Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]], Field(min_length=1, max_length=8192)]


class VideoVectors(Request):
    """What `extract` finds of a video, of one or several modalities."""

    model_config = example(cover=[0.12, -0.4], audio=[0.03, 1.7])

    image: Feature | None = None
    cover: Feature | None = None
    motion: Feature | None = None
    audio: Feature | None = None
    text: Feature | None = None


class MusicRequest(Request):
    model_config = example(user_id="ann", video_id="v7", k=5)

    user_id: Id | None = Field(default=None, description="whose taste counts; by default the mean of all users")
    video_id: Id | None = Field(default=None, description="a video of the catalog, or one that was added")
    vectors: VideoVectors | None = Field(default=None, description="instead of `video_id`: the features of any video")
    k: int = Field(10, ge=1, description="the number of tracks at most")


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
    published_at: Time | None = Field(
        default=None, description="UTC milliseconds; by default the time of arrival. Before this time the video is in no page"
    )


FieldValue = Value | Annotated[list[Value], Field(max_length=MAX_CONTEXT)]


class NewUser(Request):
    model_config = example(user_id="ann", fields={"age": 31, "country": "PE"})

    user_id: Id
    fields: dict[Name, FieldValue] = Field(
        max_length=100, description="columns of the table of users; they take the place of those that were said before"
    )


class UsersRequest(Request):
    model_config = example(users=[{"user_id": "ann", "fields": {"age": 31, "country": "PE"}}])

    users: list[NewUser] = Field(min_length=1, max_length=MAX_EVENTS)


BODIES: dict[str, type[Request]] = {
    "/v1/recommend": RecommendRequest,
    "/v1/events": EventsRequest,
    "/v1/search": SearchRequest,
    "/v1/music": MusicRequest,
    "/v1/videos": NewVideo,
    "/v1/users": UsersRequest,
}
