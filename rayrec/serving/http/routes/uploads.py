"""New videos: files that callers send, or files that they name."""

import json
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.exceptions import HTTPException

from rayrec.serving.additions import RejectedError
from rayrec.serving.http import answers
from rayrec.serving.http.backend import Backend, VideoId
from rayrec.serving.http.bodies import NewVideo
from rayrec.serving.http.errors import checked, refuse_unknown
from rayrec.serving.http.schemas import AddedAnswer, UploadStatus
from rayrec.serving.inbox import Added, ConflictError, Inbox, suffix_of
from rayrec.serving.media_roots import NotPermittedError
from rayrec.serving.metrics import Metrics

PATH, JSON = "/v1/videos", "application/json"
KINDS = ("video/", "audio/", "application/octet-stream", JSON)  # of bodies
OFF = "the service takes no files of videos (serving.uploads is not set), only what is known of them, as JSON without a uri"
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file itself; or JSON: the `uri` of a file that the service may read, or a video without a file.",
        "content": {
            "video/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            JSON: {"schema": NewVideo.model_json_schema()},
        },
    }
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": AddedAnswer, "description": "The video was there already"},
    202: {"model": AddedAnswer, "description": "The file is kept; the status route tells the rest"},
}

log = logging.getLogger(__name__)


def create_router(backend: Backend) -> APIRouter:
    router = APIRouter()

    @router.post(PATH, status_code=201, summary="Add a video", responses=ANSWERS, openapi_extra=BODY)
    async def add(
        request: Request,
        response: Response,
        wait: Annotated[bool, Query(description="false: answer as soon as the file is kept")] = True,
        video_id: str | None = None,
        title: str | None = None,
        tags: Annotated[list[str] | None, Query()] = None,
        primary_class: str | None = None,
        secondary_class: str | None = None,
        author_id: str | None = None,
        cover_uri: str | None = None,
        published_at: int | None = None,
    ) -> AddedAnswer:
        """Adds a video, which may be in pages when the answer comes: its topics are known, and it is ranked by its content.

        The body is the file, and the query says what is known of it; or the body is JSON with the `uri` of a file and all of that.
        A video without a file, of which the JSON says the `video_id` and a title, tags or a class, is added as well.
        A file that can't be read is refused with the reason. Sending a video again is safe: the same file under the same id is
        added once, and what was said of it first stays.
        """
        inbox = _inbox(backend)
        refuse_unknown(request, ["wait", *NewVideo.model_fields.keys() - {"uri"}])
        told = {
            "video_id": video_id,
            "title": title,
            "tags": tags or [],
            "primary_class": primary_class,
            "secondary_class": secondary_class,
            "author_id": author_id,
            "cover_uri": cover_uri,
            "published_at": published_at,
        }
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        body = await request.body()
        values = told | _object(body) if kind == JSON else told
        try:
            given = checked(NewVideo, values, PATH).model_dump()
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        if kind == JSON and given["uri"] is None and given["cover_uri"] is None:
            _check_facts(given)
        elif inbox.describe is None:
            raise HTTPException(404, OFF)
        if kind != JSON and not body:
            raise HTTPException(422, "the file is empty")
        added = await _added(inbox, given, None if kind == JSON else body, suffix_of(kind), wait, backend.metrics)
        if added.new and not wait:
            response.status_code = 202
            return AddedAnswer(video_id=added.video_id, status="waiting")
        response.status_code = 201 if added.new else 200
        recommender, item = backend.find_video(added.video_id)
        return AddedAnswer(video_id=added.video_id, status="ready", video=answers.video(recommender, item), fault=added.fault)

    @router.get(PATH + "/{video_id:path}/status", summary="Get what has become of a video that was sent")
    async def status(video_id: VideoId) -> UploadStatus:
        found = await backend.read(_inbox(backend).status, video_id)
        if found is None:
            raise HTTPException(404, f"no video {video_id!r} was sent")
        if found in ("ready", "waiting"):
            return UploadStatus.model_validate({"video_id": video_id, "status": found})
        return UploadStatus(video_id=video_id, status="rejected", error=found)

    return router


def _check_facts(given: dict[str, Any]) -> None:
    """Refuses a video without a file of which too little is known to recommend it."""
    if given["video_id"] is None or not any(
        given["tags"] or (given[name] or "").strip() for name in ("title", "primary_class", "secondary_class")
    ):
        raise HTTPException(
            422,
            "uri is missing: name a file, or send the file itself as the body; for a video without a file, give its video_id and a "
            "title, tags or a class",
        )


async def _added(inbox: Inbox, given: dict[str, Any], body: bytes | None, suffix: str, wait: bool, metrics: Metrics) -> Added:
    """Adds a video and counts it. What stands in its way becomes a 4xx or a 503."""
    outcome = "refused"
    try:
        added = await inbox.add(given, body, suffix, wait)
        outcome = "known" if not added.new else "added" if wait else "waiting"
        return added
    except ConflictError as error:
        raise HTTPException(409, str(error)) from error
    except NotPermittedError as error:
        raise HTTPException(422, str(error)) from error
    except RejectedError as error:
        outcome = "rejected"
        raise HTTPException(422, f"the file can't be used: {error}") from error
    except OSError as error:
        log.error("an upload can't be kept: %s", error)
        raise HTTPException(503, "the file can't be kept now; the service's log says why", {"Retry-After": "5"}) from error
    finally:
        metrics.count("uploads_total", outcome=outcome)


def _inbox(backend: Backend) -> Inbox:
    if backend.inbox is None:
        raise HTTPException(404, OFF)
    return backend.inbox


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body can't be read as JSON") from error
    if not isinstance(found, dict):
        raise HTTPException(422, "the body must be a JSON object")
    return found
