"""The HTTP API and the pages, as a FastAPI application around the arms that answer. It needs no Ray.

Whatever a caller does wrong is answered with a 4xx and `{"error": "a sentence"}`. Media are served by video id only: a caller never
names a path. What is told of each request is in watch.py, who may ask in guard.py.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from rayrec import __version__
from rayrec.config import Serving
from rayrec.recall.sources.topics import top_topics
from rayrec.serving.http import answers
from rayrec.serving.http.auth import Guard, Keys
from rayrec.serving.http.dashboard import dashboard
from rayrec.serving.http.request_log import RequestLogMiddleware
from rayrec.serving.http.schemas import (
    ERRORS,
    Dashboard,
    ErrorAnswer,
    EventsAnswer,
    EventsRequest,
    Forgotten,
    Ready,
    RecommendAnswer,
    RecommendRequest,
    Refused,
    SimilarAnswer,
    Topic,
    User,
    UserTopic,
    Video,
    Withdrawn,
    sentence,
)
from rayrec.serving.metrics import Metrics
from rayrec.serving.recommender import OverloadedError, Page, Recommender, now_ms
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.state.store import Event, StoreError

if TYPE_CHECKING:
    from rayrec.serving.rollout.swaps import Swap  # which imports ray

PAGE = FilePath(__file__).parents[1] / "page"
BODY_LIMITS = {"/v1/recommend": 64 * 2**10, "/v1/events": 2**20}  # bytes
MAX_AHEAD_MS = 5 * 60 * 1000  # how far the clock of a caller may be ahead of ours
# Scripts, styles and calls only from here; media also from where the catalog says that they lie.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob: https: http:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
COVER: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}, "description": "The cover"}
}

PathId = Annotated[str, Path(min_length=1, max_length=512, examples=["v7"])]
UserId = Annotated[str, Path(min_length=1, max_length=512, examples=["ann"])]
CurrentArms = Callable[[], Arms]

log = logging.getLogger(__name__)


def create_api(
    arms: Callable[[], Arms | None], serving: Serving, keys: Keys, metrics: Metrics, swaps: "Callable[[], list[Swap]]"
) -> FastAPI:
    """`arms` gives what answers now (None while nothing is loaded); it is asked anew for each request."""

    def current() -> Arms:
        found = arms()
        if found is None:
            raise OverloadedError("no bundle is loaded yet")
        return found

    guard = Middleware(
        Guard, keys=keys, body_limits=BODY_LIMITS, requests_per_s=serving.requests_per_s, timeout_s=serving.timeout_s
    )
    api = FastAPI(
        title="rayrec",
        version=__version__,
        summary="Recommendations for short videos.",
        docs_url=None,  # FastAPI's own page loads scripts from another host; ours is page/docs.html
        redoc_url=None,
        middleware=[Middleware(RequestLogMiddleware, metrics=metrics), guard],
        responses=ERRORS,
    )
    _add_errors(api)
    _add_recommendations(api, current, serving.max_k, metrics)
    _add_users(api, current)
    _add_catalog(api, current, serving.max_k)
    _add_operation(api, arms, current, swaps)
    _add_pages(api)
    _describe_keys(api, keys)
    return api


def _add_recommendations(api: FastAPI, current: CurrentArms, max_k: int, metrics: Metrics) -> None:
    @api.post("/v1/recommend", summary="A page of videos for a user", response_model=RecommendAnswer)
    async def recommend(request: RecommendRequest) -> Response:
        """The k videos that the user will most likely click, the best first, none of them seen before or excluded.

        They are logged as shown. A user who is not known gets popular and fresh videos.
        """
        if request.k > max_k:
            raise HTTPException(422, f"k: {request.k} videos are more than the {max_k} that one page may hold (serving.max_k)")
        arm, recommender = current().arm_of(request.user_id)
        page = await recommender.recommend(
            request.user_id, request.k, request.exclude, request.blocked_authors, request.context, arm
        )
        _measure(metrics, page, arm)
        return Response(answers.page(recommender, page, arm, request.debug), media_type="application/json")

    @api.post("/v1/events", summary="What users did with what they were shown")
    async def events(request: EventsRequest) -> EventsAnswer:
        """Clicks, watch times, likes and skips. When this answers, all events of the batch are on the disk.

        An event_id counts once, however often it is sent. Events of unknown videos and of the future are named in `refused`; all
        others are kept. A batch of which nothing can be kept is answered with 422.
        """
        arms, now = current(), now_ms()
        rows, refused = [], []
        for event in request.events:
            if not any(event.video_id in recommender.bundle.item_of for recommender in arms.named().values()):
                refused.append(Refused(event_id=event.event_id, error=f"there is no video {event.video_id!r}"))
            elif event.at is not None and event.at > now + MAX_AHEAD_MS:
                told = f"at: {event.at} lies in the future; UTC milliseconds are {now} now"
                refused.append(Refused(event_id=event.event_id, error=told))
            else:
                rows.append(Event(**event.model_dump(exclude={"at"}), at=now if event.at is None else event.at))
        if not rows:
            raise HTTPException(422, f"events.0: {refused[0].error}")
        new = await arms.stable.add_events(rows)
        for kind, count in Counter(event.kind for event in rows).items():
            metrics.count("events_total", count, kind=kind)
        if refused:
            metrics.count("events_total", len(refused), kind="refused")
        return EventsAnswer(received=len(request.events), new=new, refused=refused)


def _measure(metrics: Metrics, page: Page, arm: str) -> None:
    metrics.count("pages_total", arm=arm)
    metrics.count("events_total", len(page.items), kind="impression")
    if page.trace.steps[0].count == 0:  # clicks after hydrate
        metrics.count("cold_users_total", arm=arm)
    for source, count in Counter(page.why.tolist()).items():
        metrics.count("videos_total", count, source=source)
    for step in page.trace.steps:
        metrics.observe("step_seconds", step.milliseconds / 1000, step=step.name)
        metrics.observe("step_candidates", step.count, step=step.name)


def _add_users(api: FastAPI, current: CurrentArms) -> None:
    # Ids may hold slashes.
    @api.get("/v1/users/{user_id:path}", summary="What is known of a user")
    async def user(user_id: UserId) -> User:
        _, recommender = current().arm_of(user_id)
        state = await asyncio.to_thread(recommender.user, user_id)
        topics, clicks = top_topics(state.clicked, recommender.bundle.item_topics, recommender.settings)
        words = recommender.bundle.words
        found = [
            UserTopic(topic=topic, words=words.get(topic, []), clicks=count)
            for topic, count in zip(topics.tolist(), clicks.tolist(), strict=True)
        ]
        return User(user_id=user_id, clicks=len(state.clicked), seen=len(np.unique(state.seen)), topics=found)

    @api.delete("/v1/users/{user_id:path}", summary="Forget a user")
    async def forget(user_id: UserId) -> Forgotten:
        """Deletes the user's events. What the training log says of them is not looked at any more; it goes with the next training
        on a log without them."""
        return Forgotten(events=await asyncio.to_thread(current().stable.store.forget, user_id))


def _add_catalog(api: FastAPI, current: CurrentArms, max_k: int) -> None:
    def find(video_id: str) -> tuple[Recommender, int]:
        for recommender in current().named().values():
            if (item := recommender.bundle.item_of.get(video_id)) is not None:
                return recommender, item
        raise HTTPException(404, f"there is no video {video_id!r}")

    @api.get("/v1/topics", summary="All topics")
    async def topics() -> list[Topic]:
        rows = current().stable.bundle.topics.to_pylist()
        return [Topic(topic=row["topic"], words=row["words"] or [], videos=row["videos"]) for row in rows]

    # Ids may hold slashes, so the longer paths come first.
    @api.get("/v1/videos/{video_id:path}/cover", summary="A video's cover, JPEG", response_class=Response, responses=COVER)
    async def cover(video_id: PathId) -> Response:
        recommender, item = find(video_id)
        jpeg = recommender.bundle.cover(item)
        if jpeg is None:
            raise HTTPException(404, f"video {video_id!r} has no cover")
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @api.get("/v1/videos/{video_id:path}/file", summary="The video file; byte ranges are supported", response_class=Response)
    async def file(video_id: PathId) -> Response:
        recommender, item = find(video_id)
        place = answers.place_of(recommender.bundle.facts_of(np.array([item]))[0]["uri"])
        if isinstance(place, str):
            return RedirectResponse(place)
        if place is None or not place.is_file():
            raise HTTPException(404, f"video {video_id!r} has no file that this service can hand out")
        return FileResponse(place)

    @api.get("/v1/videos/{video_id:path}", summary="What is known of a video")
    async def video(video_id: PathId) -> Video:
        recommender, item = find(video_id)
        return answers.video(recommender, item)

    @api.get("/v1/similar/{video_id:path}", summary="Videos like a video")
    async def similar(video_id: PathId, k: Annotated[int, Query(ge=1, le=max_k)] = min(10, max_k)) -> SimilarAnswer:
        """By their vectors, or by their topics where the topics stage made no vectors; the most similar first."""
        recommender, _ = find(video_id)
        items, similarity = await asyncio.to_thread(recommender.similar, video_id, k)
        return SimilarAnswer(video_id=video_id, videos=answers.similar(recommender, items, similarity))

    async def withdraw(video_id: str, withdrawn: bool) -> Withdrawn:
        recommender, _ = find(video_id)
        await asyncio.to_thread(recommender.store.withdraw, video_id, withdrawn)
        return Withdrawn(video_id=video_id, withdrawn=withdrawn)

    @api.put("/v1/withdrawn/{video_id:path}", summary="Keep a video out of all pages", tags=["operation"])
    async def put_withdrawn(video_id: PathId) -> Withdrawn:
        return await withdraw(video_id, True)

    @api.delete("/v1/withdrawn/{video_id:path}", summary="Let a withdrawn video into pages again", tags=["operation"])
    async def delete_withdrawn(video_id: PathId) -> Withdrawn:
        return await withdraw(video_id, False)


def _add_operation(api: FastAPI, arms: Callable[[], Arms | None], current: CurrentArms, swaps: "Callable[[], list[Swap]]") -> None:
    @api.get("/v1/dashboard", summary="The numbers of the page /dashboard", tags=["operation"])
    async def numbers() -> Dashboard:
        return await asyncio.to_thread(lambda: dashboard(current(), swaps(), now_ms()))

    @api.get("/healthz", summary="Whether the service runs", tags=["operation"])
    async def healthz() -> Ready:
        found = arms()
        return Ready(bundle=found.stable.bundle.version if found else None)

    @api.get("/readyz", summary="Whether the service answers: a bundle is loaded and the ranker scores", tags=["operation"])
    async def readyz() -> Ready:
        recommender = current().stable
        user = await asyncio.to_thread(recommender.user, "")
        await recommender.rank("", user, now_ms(), np.ones(1, np.int32), {})
        return Ready(bundle=recommender.bundle.version)


def _add_pages(api: FastAPI) -> None:
    @api.get("/", include_in_schema=False)
    async def feed() -> Response:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

    @api.get("/dashboard", include_in_schema=False)
    async def board() -> Response:
        return FileResponse(PAGE / "dashboard.html", headers=PAGE_HEADERS)

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(PAGE / "docs.html", headers=PAGE_HEADERS)

    api.mount("/page", StaticFiles(directory=PAGE))


def _describe_keys(api: FastAPI, keys: Keys) -> None:
    """Say in /openapi.json that calls need a key, where they do."""
    if keys:
        described = api.openapi()
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in described["paths"].items():
            if path.startswith("/v1/"):
                for method in methods.values():
                    method["security"] = [{"key": []}]


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
        log.warning("busy: %s: %s", type(problem).__name__, problem)
        return error(503, "the service is busy or starting; try again in a second", {"Retry-After": "1"})
