"""The HTTP API and the feed page, as a FastAPI application around a `Recommender`. It needs no Ray.

Whatever a caller does wrong is answered with a 4xx and `{"error": "a sentence"}`. Media are served by video id only: a caller never
names a path.
"""

import logging
import mimetypes
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import url2pathname

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from rayrec import __version__
from rayrec.recall import steps
from rayrec.serving.guard import Guard
from rayrec.serving.messages import (
    ERRORS,
    Debug,
    ErrorAnswer,
    EventsAnswer,
    EventsRequest,
    Ready,
    RecommendAnswer,
    RecommendedVideo,
    RecommendRequest,
    ScoredTopic,
    StepTime,
    Topic,
    User,
    UserTopic,
    Video,
    sentence,
)
from rayrec.serving.recommendation import OverloadedError, Page, Recommender, now_ms
from rayrec.serving.store import Event, StoreError

PAGE = Path(__file__).parent / "page"
BODY_LIMITS = {"/v1/recommend": 64 * 2**10, "/v1/events": 2**20}  # bytes
MOST_AHEAD_MS = 5 * 60 * 1000  # how far the clock of a caller may be ahead of ours
# Scripts, styles and calls only from here; media also from where the catalog says that they lie.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob: https: http:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

log = logging.getLogger(__name__)


def create_api(current: Callable[[], Recommender | None], keys: list[str], most_k: int) -> FastAPI:
    """`current` gives the recommender in use (None until there is one); it is asked anew for each request."""
    api = FastAPI(
        title="rayrec",
        version=__version__,
        summary="Recommendations for short videos.",
        docs_url=None,  # FastAPI's own page loads scripts from another host; ours is page/docs.html
        redoc_url=None,
        middleware=[Middleware(Guard, keys=keys, body_limits=BODY_LIMITS)],
        responses=ERRORS,
    )
    _add_errors(api)
    _add_recommendations(api, current, most_k)
    _add_catalog(api, current)
    _add_page(api)
    return api


def _add_recommendations(api: FastAPI, current: Callable[[], Recommender | None], most_k: int) -> None:
    @api.post("/v1/recommend", summary="A page of videos for a user")
    async def recommend(request: RecommendRequest) -> RecommendAnswer:
        """The k videos that the user will most likely click, the best first, none of them seen before or excluded.

        They are logged as shown. A user who is not known gets popular and fresh videos.
        """
        if request.k > most_k:
            raise HTTPException(422, f"k: {request.k} videos are more than the {most_k} that one page may hold (serving.most_k)")
        recommender = _ready(current())
        page = await recommender.recommend(request.user_id, request.k, request.exclude)
        return _answer(recommender, page, request)

    @api.post("/v1/events", summary="What users did with what they were shown")
    async def events(request: EventsRequest) -> EventsAnswer:
        """Clicks, watch times, likes and skips. When this answers, all events of the batch are on the disk.

        An event_id counts once, however often it is sent.
        """
        recommender, now = _ready(current()), now_ms()
        for place, event in enumerate(request.events):
            if event.video_id not in recommender.bundle.item_of:
                raise HTTPException(404, f"events.{place}: there is no video {event.video_id!r}")
            if event.at is not None and event.at > now + MOST_AHEAD_MS:
                raise HTTPException(422, f"events.{place}.at: {event.at} lies in the future; UTC milliseconds are {now} now")
        rows = [Event(**event.model_dump(exclude={"at"}), at=now if event.at is None else event.at) for event in request.events]
        new = await recommender.add_events(rows)
        return EventsAnswer(received=len(rows), new=new)

    @api.get("/v1/users/{user_id:path}", summary="What is known of a user")
    async def user(user_id: str) -> User:
        recommender = _ready(current())
        state = recommender.user(user_id)
        topics, clicks = steps.top_topics(state.clicked, recommender.bundle.item_topics, recommender.settings)
        words = recommender.bundle.words
        found = [
            UserTopic(topic=topic, words=words.get(topic, []), clicks=count)
            for topic, count in zip(topics.tolist(), clicks.tolist(), strict=True)
        ]
        return User(user_id=user_id, clicks=len(state.clicked), seen=len(np.unique(state.seen)), topics=found)

    @api.get("/healthz", summary="Whether the service runs", tags=["operation"])
    async def healthz() -> Ready:
        recommender = current()
        return Ready(bundle=recommender.bundle.version if recommender else None)

    @api.get("/readyz", summary="Whether the service answers: a bundle is loaded and the ranker scores", tags=["operation"])
    async def readyz() -> Ready:
        recommender = _ready(current())
        await recommender.rank("", recommender.user(""), now_ms(), np.ones(1, np.int32), {})
        return Ready(bundle=recommender.bundle.version)


def _add_catalog(api: FastAPI, current: Callable[[], Recommender | None]) -> None:
    def facts_of(video_id: str) -> tuple[Recommender, int, dict[str, Any]]:
        recommender = _ready(current())
        item = recommender.bundle.item_of.get(video_id)
        if item is None:
            raise HTTPException(404, f"there is no video {video_id!r}")
        return recommender, item, recommender.bundle.facts_of(np.array([item]))[0]

    @api.get("/v1/topics", summary="All topics")
    async def topics() -> list[Topic]:
        rows = _ready(current()).bundle.topics.to_pylist()
        return [Topic(topic=row["topic"], words=row["words"] or [], videos=row["videos"]) for row in rows]

    # Ids may hold slashes, so the longer paths come first.
    @api.get("/v1/videos/{video_id:path}/cover", summary="A video's cover, JPEG", response_class=Response)
    async def cover(video_id: str) -> Response:
        recommender, item, _ = facts_of(video_id)
        jpeg = recommender.bundle.cover(item)
        if jpeg is None:
            raise HTTPException(404, f"video {video_id!r} has no cover")
        headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    @api.get("/v1/videos/{video_id:path}/file", summary="The video file; byte ranges are supported", response_class=Response)
    async def file(video_id: str) -> Response:
        place = _place_of(facts_of(video_id)[2]["uri"])
        if isinstance(place, str):
            return RedirectResponse(place)
        if place is None or not place.is_file():
            raise HTTPException(404, f"video {video_id!r} has no file that this service can hand out")
        return FileResponse(place, headers={"X-Content-Type-Options": "nosniff"})

    @api.get("/v1/videos/{video_id:path}", summary="What is known of a video")
    async def video(video_id: str) -> Video:
        recommender, _, facts = facts_of(video_id)
        return Video(**_video(facts, recommender.bundle.words))


def _add_page(api: FastAPI) -> None:
    @api.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(PAGE / "docs.html", headers=PAGE_HEADERS)

    api.mount("/page", StaticFiles(directory=PAGE))


def _add_errors(api: FastAPI) -> None:
    def error(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse(ErrorAnswer(error=text).model_dump(), status, headers)

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: RequestValidationError) -> JSONResponse:
        first = dict(problem.errors()[0])
        return error(400 if first["type"] == "json_invalid" else 422, sentence(first, request.url.path))

    @api.exception_handler(HTTPException)
    async def refused(request: Request, problem: HTTPException) -> JSONResponse:
        path, headers = request.url.path, dict(problem.headers or {})
        if problem.status_code == 405:
            return error(405, f"{path} does not take {request.method}; it takes {headers.get('Allow', 'another method')}", headers)
        if problem.status_code == 404 and problem.detail == "Not Found":
            return error(404, f"there is nothing at {path!r}; /docs lists what there is")
        if problem.status_code == 400:  # what FastAPI says of bytes that are not text, of deep nesting and of huge numbers
            return error(400, "the body can't be read as JSON")
        return error(problem.status_code, problem.detail, headers)

    @api.exception_handler(OverloadedError)
    @api.exception_handler(StoreError)
    async def busy(request: Request, problem: Exception) -> JSONResponse:
        log.warning("%s %s: %s: %s", request.method, request.url.path, type(problem).__name__, problem)
        return error(503, "the service is busy or starting; try again in a second", {"Retry-After": "1"})

    @api.exception_handler(Exception)
    async def failed(request: Request, problem: Exception) -> JSONResponse:
        return error(500, "the service failed on this request; its log says why")


def _ready(recommender: Recommender | None) -> Recommender:
    if recommender is None:
        raise OverloadedError("no bundle is loaded yet")
    return recommender


def _answer(recommender: Recommender, page: Page, request: RecommendRequest) -> RecommendAnswer:
    words = recommender.bundle.words
    facts = recommender.bundle.facts_of(page.items)
    videos = [
        RecommendedVideo(**_video(fact, words), score=round(float(score), 6), **_reason(int(topic), words))
        for fact, score, topic in zip(facts, page.scores, page.topics, strict=True)
    ]
    times = [StepTime(step=step.name, milliseconds=round(step.milliseconds, 3), count=step.count) for step in page.trace.steps]
    debug = Debug(steps=times) if request.debug else None
    return RecommendAnswer(request_id=page.request_id, bundle=recommender.bundle.version, videos=videos, debug=debug)


def _reason(topic: int, words: dict[int, list[str]]) -> dict[str, Any]:
    """Why a video is in the page."""
    if topic == steps.POPULAR:
        return {"why": "popular"}
    if topic == steps.FRESH:
        return {"why": "new"}
    return {"why": "topic: " + (", ".join(words.get(topic, [])) or str(topic)), "topic": topic}


def _video(facts: dict[str, Any], words: dict[int, list[str]]) -> dict[str, Any]:
    """The fields of a `Video` from a row of the bundle's items."""
    base = f"/v1/videos/{quote(facts['video_id'], safe='')}"
    topics = zip(facts["topics"] or [], facts["similarity"] or [], strict=True)
    plain = ("video_id", "title", "author_id", "primary_class", "secondary_class", "published_at", "duration_s")
    return {
        **{name: facts[name] for name in plain},
        "tags": facts["tags"] or [],
        "topics": [
            ScoredTopic(topic=topic, words=words.get(topic, []), similarity=round(similarity, 4)) for topic, similarity in topics
        ],
        "cover": f"{base}/cover" if facts["has_cover"] else None,
        "file": f"{base}/file" if _place_of(facts["uri"]) else None,
    }


def _place_of(uri: str | None) -> Path | str | None:
    """Where a catalog's medium is: a path of this machine or a web address; None for what is elsewhere or no medium."""
    if uri is None or uri.startswith(("http://", "https://")):
        return uri
    if not (mimetypes.guess_type(uri)[0] or "").startswith(("video/", "audio/", "image/")):
        return None
    if uri.startswith("file://"):
        return Path(url2pathname(uri.removeprefix("file://")))
    return Path(uri) if uri.startswith("/") else None
