"""The HTTP API and the pages as a FastAPI application. It needs no Ray.

Whatever is wrong with a request is answered with a 4xx and `{"error": "a sentence"}`. Media are served by video id only: a caller
never names a path.
"""

from collections.abc import Callable

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from pydantic.json_schema import models_json_schema
from starlette.middleware import Middleware

from rayrec import __version__
from rayrec.config import Music, Search, Serving, Uploads
from rayrec.serving.http.auth import API_PREFIX, AuthMiddleware, Keys
from rayrec.serving.http.backend import Backend
from rayrec.serving.http.bodies import SearchRequest
from rayrec.serving.http.errors import RESPONSES, add_error_handlers
from rayrec.serving.http.limits import MAX_AT_ONCE, FileLimits, LimitsMiddleware
from rayrec.serving.http.request_log import RequestLogMiddleware
from rayrec.serving.http.routes import dashboard, events, operation, pages, recommend, search, uploads, users, videos
from rayrec.serving.http.routes import music as music_routes
from rayrec.serving.inbox import Inbox
from rayrec.serving.metrics import Metrics
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.rollout.history import Swap
from rayrec.serving.search_query import Place
from rayrec.serving.search_query import Search as Ask

BODY_LIMITS = {"/v1/recommend": 64 * 2**10, "/v1/events": 2**20, "/v1/users": 2**20, "/v1/music": 2**18}  # bytes
LIST_BYTES = 2**20  # of a list of new videos without files


def create_api(
    arms: Callable[[], Arms | None],
    serving: Serving,
    keys: Keys,
    metrics: Metrics,
    swaps: Callable[[], list[Swap]],
    inbox: Inbox | None = None,
    ask: Ask | None = None,
    searching: Search | None = None,
    place: Place | None = None,
    music: Music | None = None,
) -> FastAPI:
    """`arms` returns what answers now, or None while nothing is loaded; it is called for each request.

    New videos arrive in the inbox; without one, none are taken. `ask` answers searches, under the settings of `searching`, and
    `place` says where a video is in their space. `music` has the settings of music.
    """
    backend = Backend(arms, serving, metrics, swaps, inbox, ask, place, music.max_k if music is not None else serving.max_k)
    limits = Middleware(
        LimitsMiddleware,
        body_limits=BODY_LIMITS,
        requests_per_s=serving.requests_per_s,
        timeout_s=serving.timeout_s,
        files=file_limits(serving, searching or Search()),
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
    for module in (recommend, events, users, uploads, videos, search, music_routes, operation, dashboard):
        api.include_router(module.create_router(backend))
    api.include_router(pages.router)
    api.mount("/page", StaticFiles(directory=pages.FOLDER))
    _describe_search(api)
    if keys:
        _describe_keys(api)
    return api


def file_limits(serving: Serving, searching: Search) -> dict[str, FileLimits]:
    """What holds for the paths that take files. Without uploads, a body is refused as soon as its path is known."""
    settings = serving.uploads or Uploads(max_bytes=2**20, timeout_s=serving.timeout_s)
    return {
        uploads.PATH: FileLimits(settings.max_bytes, uploads.KINDS, settings.timeout_s, settings.max_at_once, LIST_BYTES),
        search.PATH: FileLimits(searching.max_upload_bytes, search.KINDS, serving.timeout_s, MAX_AT_ONCE),
    }


def _describe_search(api: FastAPI) -> None:
    """States in /openapi.json what the JSON of a search holds. FastAPI describes only the bodies that it reads itself."""
    _, models = models_json_schema([(SearchRequest, "validation")], ref_template="#/components/schemas/{model}")
    api.openapi()["components"]["schemas"] |= models["$defs"]


def _describe_keys(api: FastAPI) -> None:
    """States in /openapi.json which calls need a key."""
    description = api.openapi()
    description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in description["paths"].items():
        if path.startswith(API_PREFIX):
            for method in methods.values():
                method["security"] = [{"key": []}]
