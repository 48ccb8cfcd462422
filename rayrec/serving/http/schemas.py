"""The answers of the HTTP API, each with an example."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from rayrec.serving.http.bodies import example
from rayrec.serving.http.experiment_schemas import ExperimentNumbers
from rayrec.serving.http.feedback_schemas import GIVEN, FeedbackUsed, GivenFeedback, Moved

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
REFUSED = {"event_id": "e9", "error": "there is no video 'v0'"}
QUEUED = {"video_id": "v7", "title": "A song in the rain", "ctr": 0.18, "exposures": 250, "cover": "/v1/videos/v7/cover"}
RECOMMENDED = VIDEO | {"score": 0.31, "why": "topic: guitar, song", "topic": 3}


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
    model_config = example(user_id="ann", clicks=12, seen=80, topics=[TOPIC | {"clicks": 4}], feedback=[GIVEN])

    user_id: str
    clicks: int = Field(description="number of the user's latest clicks that recommendations are based on")
    seen: int = Field(description="number of videos that the user has seen within recall.seen_days")
    topics: list[UserTopic] = Field(description="topics from which videos are recommended to the user")
    fields: dict[str, Any] = Field(default={}, description="what was said of the user by POST /v1/users")
    feedback: list[GivenFeedback] = Field(
        [], description="the latest likes, skips and wishes that were not taken back, the newest first"
    )


class UsersAnswer(BaseModel):
    model_config = example(users=1)

    users: int = Field(description="of how many users the service knows something now because of this request")


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


class TakenVideo(BaseModel):
    model_config = example(video_id="v7", status="ready", new=True, fault=None, error=None)

    video_id: str | None
    status: Literal["ready", "waiting", "refused"] = Field(description="`ready` if the video may be in pages now")
    new: bool = Field(default=False, description="false: it was there already, or is refused")
    fault: str | None = Field(default=None, description="what of the file could not be read; the rest of it is used")
    error: str | None = Field(default=None, description="why it was refused")


class AddedVideos(BaseModel):
    model_config = example(
        received=2,
        new=1,
        videos=[
            {"video_id": "v7", "status": "ready", "new": True, "fault": None, "error": None},
            {"video_id": "v8", "status": "refused", "new": False, "fault": None, "error": "tags.0: must not be empty (got '')"},
        ],
    )

    received: int
    new: int
    videos: list[TakenVideo] = Field(description="what became of each, in the order in which they were sent")


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


class StageAttention(BaseModel):
    model_config = example(kernel=3, logit=0.12, places=[[0.1, 0.2], [0.3, 0.4]])

    kernel: int = Field(description="width of the user's kernels in this stage of the image network")
    logit: float = Field(description="what the stage adds to the logit of a click")
    places: list[list[float]] = Field(description="share of the attention at each place: rows from the top, each from the left")


class AttentionAnswer(BaseModel):
    model_config = example(
        user_id="ann",
        video_id="v7",
        bundle="20261121-101500-3f2a",
        known=True,
        seen=0.875,
        logit=0.12,
        places=[[0.1, 0.2], [0.3, 0.4]],
        stages=[{"kernel": 3, "logit": 0.12, "places": [[0.1, 0.2], [0.3, 0.4]]}],
        reason=None,
    )

    user_id: str
    video_id: str
    bundle: str = Field(description="version of the bundle that answered")
    known: bool = Field(default=False, description="whether the ranker knows the user; others have the mean kernels of all users")
    seen: float | None = Field(
        default=None,
        description="side of the square in the middle of the cover that the places divide, as a share of the cover's short side",
    )
    logit: float | None = Field(default=None, description="what the user's kernels add to the logit of a click")
    places: list[list[float]] | None = Field(
        default=None, description="attention of all stages, each weighted by the size of its logit: shares that add up to 1"
    )
    stages: list[StageAttention] = []
    reason: str | None = Field(default=None, description="why there are no `places`")


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

    score: float = Field(
        description="how likely a click is, as the ranker learned it. It is a click probability only if the log has impressions "
        "that were not clicked and training drew no further negatives; otherwise, and without a ranker, it only orders the videos. "
        "From a ranker with several goals, it is what the formula makes of them"
    )
    why: str = Field(
        description="why the video is in the page: its topic, or `popular`, `new`, `similar` or `taste`; or `again`: the user has "
        "seen it, and nothing else is left"
    )
    topic: int | None = None
    feedback: Moved | None = Field(
        default=None, description="what the user said that moved this video up or down; `score` does not contain it"
    )
    goals: dict[str, float] | None = Field(
        default=None,
        description="with `debug`, for keys in `serving.trusted_keys`: what a ranker with several goals predicts, each a "
        "probability or an expected number, such as seconds",
    )


class StepTime(BaseModel):
    model_config = example(step="source", milliseconds=0.42, count=600)

    step: str
    milliseconds: float
    count: int = Field(description="clicks after the step hydrate, videos from select on, candidates otherwise")


class Debug(BaseModel):
    model_config = example(steps=[{"step": "source", "milliseconds": 0.42, "count": 600}], propensities=[1.0, 0.07])

    steps: list[StepTime]
    propensities: list[float] | None = Field(
        None,
        description="the probability with which each video was shown in its place, given the candidates, their scores and what was "
        "drawn for the places before it: 1 where nothing was drawn; null if no place of the page could explore",
    )
    feedback: FeedbackUsed | None = Field(default=None, description="what the user's feedback did; absent where there is none")
    formula: str | None = Field(
        default=None, description="what made each `score` of the video's `goals`; absent where the answer has no `goals`"
    )


class RecommendAnswer(BaseModel):
    model_config = example(
        request_id="9f2c",
        arm="stable",
        experiments={"fresh": "more"},
        bundle="20261121-101500-3f2a",
        videos=[RECOMMENDED],
        logged=True,
        debug=None,
    )

    request_id: str = Field(description="to be sent with the events of these videos, like `arm`")
    arm: str = Field(description="`stable`, or `canary` for users who get a new bundle on trial")
    experiments: dict[str, str] = Field({}, description="the user's arm of each experiment in which the user takes part")
    bundle: str = Field(description="version of the bundle that answered")
    videos: list[RecommendedVideo] = Field(
        description="the best first, videos that come again last; there are fewer than k only if no others may be shown"
    )
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
    impressions: int = Field(description="videos that came into view, or, with serving.views: assumed, that were delivered")
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
        ranker=True,
        metrics={"auc": 0.74},
        swaps=[{"at": 1763700000000, "bundle": "20261121-101500-3f2a", "canary": None, "share": 0.0, "outcome": "done"}],
        users=["ann"],
        tracks=40,
        experiments=[],
        refreshed_at=1763700000000,
    )

    arms: list[Arm]
    queues: list[Queue] = Field(description="queues of the stable arm, the longest first")
    traffic: list[Traffic] = Field(description="the last 24 hours")
    ranker: bool = Field(description="whether the stable bundle has a ranker; without one, pages are in the order of recall")
    metrics: dict[str, float | None] = Field(
        description="offline metrics of the stable bundle's ranker, if it was evaluated; null where one is not defined"
    )
    swaps: list[SwapMade] = Field(description="the oldest first")
    users: list[str] = Field(description="some users with the most clicks in the training log")
    tracks: int = Field(description="number of tracks from which the stable arm chooses music; 0 for a bundle without any")
    experiments: list[ExperimentNumbers] = Field(
        [], description="those of the config; right after a start, without the newest events"
    )
    refreshed_at: int = Field(description="when the queues last took in the events, UTC milliseconds")
