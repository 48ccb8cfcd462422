"""The HTTP API and the pages as a FastAPI application. It needs no Ray.

Whatever is wrong with a request is answered with a 4xx and `{"error": "a sentence"}`. Media are served by video id only: a caller
never names a path.
"""

from collections.abc import Callable

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware import Middleware

from rayrec import __version__
from rayrec.config import Serving, Uploads
from rayrec.serving.http.auth import API_PREFIX, AuthMiddleware, Keys
from rayrec.serving.http.backend import Backend
from rayrec.serving.http.errors import RESPONSES, add_error_handlers
from rayrec.serving.http.limits import FileLimits, LimitsMiddleware
from rayrec.serving.http.request_log import RequestLogMiddleware
from rayrec.serving.http.routes import dashboard, events, operation, pages, recommend, uploads, users, videos
from rayrec.serving.inbox import Inbox
from rayrec.serving.metrics import Metrics
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.rollout.history import Swap

BODY_LIMITS = {"/v1/recommend": 64 * 2**10, "/v1/events": 2**20}  # bytes


def create_api(
    arms: Callable[[], Arms | None],
    serving: Serving,
    keys: Keys,
    metrics: Metrics,
    swaps: Callable[[], list[Swap]],
    inbox: Inbox | None = None,
) -> FastAPI:
    """`arms` returns what answers now, or None while nothing is loaded; it is called for each request.

    New videos arrive in the inbox; without one, none are taken.
    """
    backend = Backend(arms, serving, metrics, swaps, inbox)
    limits = Middleware(
        LimitsMiddleware,
        body_limits=BODY_LIMITS,
        requests_per_s=serving.requests_per_s,
        timeout_s=serving.timeout_s,
        files=file_limits(serving),
    )
    api = FastAPI(
        title="rayrec",
        version=__version__,
        summary="Recommendations for short videos.",
        docs_url=None,  # FastAPI's own page loads scripts from another host; ours is page/docs.html
        redoc_url=None,
        middleware=[Middleware(RequestLogMiddleware, metrics=metrics), Middleware(AuthMiddleware, keys=keys), limits],
        responses=RESPONSES,
    )
    add_error_handlers(api)
    for module in (recommend, events, users, uploads, videos, operation, dashboard):
        api.include_router(module.create_router(backend))
    api.include_router(pages.router)
    api.mount("/page", StaticFiles(directory=pages.FOLDER))
    if keys:
        _describe_keys(api)
    return api


def file_limits(serving: Serving) -> dict[str, FileLimits]:
    """What holds for the paths that take files. Without uploads, a body is refused as soon as its path is known."""
    settings = serving.uploads or Uploads(max_bytes=64 * 2**10, timeout_s=serving.timeout_s)
    return {uploads.PATH: FileLimits(settings.max_bytes, uploads.KINDS, settings.timeout_s, settings.max_at_once)}


def _describe_keys(api: FastAPI) -> None:
    """States in /openapi.json which calls need a key."""
    description = api.openapi()
    description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in description["paths"].items():
        if path.startswith(API_PREFIX):
            for method in methods.values():
                method["security"] = [{"key": []}]
