"""Search by words, by a picture or by a sound."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from rayrec.config import PICTURE, SOUND, WORDS
from rayrec.retrieval.index import Filters
from rayrec.serving.http import answers
from rayrec.serving.http.backend import Backend
from rayrec.serving.http.bodies import MIN_SCORE, Id, MinScore, Name, SearchFilters, SearchRequest, Time
from rayrec.serving.http.errors import refuse_unknown
from rayrec.serving.http.schemas import SearchAnswer
from rayrec.serving.search_query import SearchError, SearchQuery

PATH = "/v1/search"
UPLOADED = ("image/", "audio/")  # the content types of pictures and sounds
KINDS = ("application/json", *UPLOADED)  # of bodies
NOT_CONFIGURED = (
    "this service does not search: its config has no section `search`; add `search: {}`, then run `rayrec search_index CONFIG`, "
    "`rayrec publish CONFIG` and `rayrec serve CONFIG`"
)
BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/SearchRequest"}},
            "image/*": BINARY,
            "audio/*": BINARY,
        },
    }
}


def create_router(backend: Backend) -> APIRouter:
    router, max_k = APIRouter(), backend.serving.max_k

    @router.post(PATH, summary="Find videos by words, by a picture or by a sound", openapi_extra=BODY)
    async def search(
        request: Request,
        k: Annotated[int, Query(ge=1, description="as in the JSON, for a picture or a sound")] = min(10, max_k),
        class_: Annotated[Name | None, Query(alias="class")] = None,
        author: Annotated[Id | None, Query()] = None,
        since: Annotated[Time | None, Query()] = None,
        min_score: Annotated[MinScore | None, Query(description=MIN_SCORE)] = None,
    ) -> SearchAnswer:
        """Returns the videos nearest to the query, the best first, and none if nothing is relevant.

        Words are sent as JSON. A picture or a sound is sent as it is, with its own content type (`image/...` or `audio/...`), and
        `k`, `class`, `author`, `since` and `min_score` in the query of the URL. It is decoded in a process of its own and not kept.
        """
        refuse_unknown(request, ("k", "class", "author", "since", "min_score"))
        body, kind = await request.body(), request.headers.get("content-type", "").lower()
        if kind.startswith(UPLOADED):
            wanted = SearchQuery(
                PICTURE if kind.startswith(UPLOADED[0]) else SOUND, body, k, min_score, Filters(class_, author, since)
            )
        else:
            wanted = _words(body)
        if wanted.k > max_k:
            raise HTTPException(422, f"k: an answer holds at most {max_k} videos (serving.max_k), not {wanted.k}")
        return await _answer(backend, wanted)

    return router


async def _answer(backend: Backend, query: SearchQuery) -> SearchAnswer:
    recommender = backend.arms().stable
    if backend.search is None:
        raise HTTPException(404, NOT_CONFIGURED)
    try:
        found = await backend.search(recommender.bundle.version, query)
    except SearchError as error:
        raise HTTPException(error.status, str(error)) from error
    backend.metrics.count("searches_total", kind=query.kind)
    scored = zip(found.video_ids, found.scores, strict=True)
    known = [(item, score) for video_id, score in scored if (item := recommender.items.find(video_id))]
    return SearchAnswer(
        bundle=recommender.bundle.version, videos=answers.found(recommender, known), tags=found.tags, min_score=found.floor
    )


def _words(body: bytes) -> SearchQuery:
    """The query in a JSON body. Raises what FastAPI raises for the bodies that it reads itself."""
    try:
        data = json.loads(body)
    except json.JSONDecodeError as error:
        problem = {"type": "json_invalid", "loc": ("body", error.pos), "msg": error.msg, "input": {}, "ctx": {"error": error.msg}}
        raise RequestValidationError([problem]) from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise HTTPException(400, "the body can't be read as JSON") from error
    try:
        asked = SearchRequest.model_validate(data)
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from error
    filters: SearchFilters = asked.filters
    return SearchQuery(WORDS, asked.text, asked.k, asked.min_score, Filters(filters.class_, filters.author, filters.since))
