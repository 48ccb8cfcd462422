"""New videos: files that callers send, or files that they name."""

import json
import logging
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from rayrec.serving.additions import RejectedError
from rayrec.serving.http import answers
from rayrec.serving.http.backend import Backend, VideoId
from rayrec.serving.http.bodies import MAX_VIDEOS, NewVideo
from rayrec.serving.http.errors import BUSY, checked, refuse_unknown
from rayrec.serving.http.schemas import AddedAnswer, AddedVideos, TakenVideo, UploadStatus
from rayrec.serving.inbox import Added, ConflictError, Inbox, suffix_of
from rayrec.serving.media_roots import NotPermittedError
from rayrec.serving.recommender import OverloadedError
from rayrec.serving.state.store import StoreError

PATH, JSON = "/v1/videos", "application/json"
KINDS = ("video/", "audio/", "application/octet-stream", JSON)  # of bodies
OFF = "the service takes no files of videos (serving.uploads is not set), only what is known of them, as JSON without a uri"
NEW_VIDEO = NewVideo.model_json_schema()
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file itself; or JSON: the `uri` of a file that the service may read, a video without one, or a list.",
        "content": {
            "video/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            JSON: {"schema": {"anyOf": [NEW_VIDEO, {"type": "array", "items": NEW_VIDEO, "minItems": 1, "maxItems": MAX_VIDEOS}]}},
        },
    }
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": AddedAnswer | AddedVideos, "description": "The video was there already; or what became of each video of a list"},
    202: {"model": AddedAnswer, "description": "The file is kept; the status route tells the rest"},
}

log = logging.getLogger(__name__)


def create_router(backend: Backend) -> APIRouter:
    router = APIRouter()

    @router.post(
        PATH, status_code=201, response_model=AddedAnswer, summary="Add a video, or several", responses=ANSWERS, openapi_extra=BODY
    )
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
    ) -> AddedAnswer | JSONResponse:
        """Adds a video, which may be in pages when the answer comes: its topics are known, and it is ranked by its content.

        The body is the file, and the query says what is known of it; or the body is JSON with the `uri` of a file and all of that.
        A video without a file, of which the JSON says the `video_id` and a title, tags or a class, is added as well.
        A file that can't be read is refused with the reason. Sending a video again is safe: the same file under the same id is
        added once, and what was said of it first stays.

        A list of up to 100 such JSON objects is answered with 200 and what became of each: those that can't be used are refused
        with the reason, and all others are taken. If none can be taken, the answer is the error of the first. Send videos with
        files in a list only with `wait=false`, as each takes a moment.
        """
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
        sent = _parsed(body) if kind == JSON else {}
        if isinstance(sent, list):
            return JSONResponse((await _each_added(backend, [_merged(told, row) for row in sent], wait)).model_dump())
        added = await _added(backend, _merged(told, sent), None if kind == JSON else body, suffix_of(kind), wait)
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


async def _each_added(backend: Backend, rows: list[Any], wait: bool) -> AddedVideos:
    """Adds several videos, one after the other, so that of two with one id the first stays. Raises if none can be taken."""
    if not 1 <= len(rows) <= MAX_VIDEOS:
        raise HTTPException(422, f"the body must be a list of 1 to {MAX_VIDEOS} videos, not of {len(rows):,}")
    taken, problems = list[TakenVideo](), list[Exception]()
    for row in rows:
        try:
            added = await _added(backend, row, None, "", wait, show=False)
            status: Literal["ready", "waiting"] = "waiting" if added.new and not wait else "ready"
            taken.append(TakenVideo(video_id=added.video_id, status=status, new=added.new, fault=added.fault))
        except (HTTPException, OverloadedError, StoreError) as problem:
            problems.append(problem)
            sentence = problem.detail if isinstance(problem, HTTPException) else BUSY
            video_id = row.get("video_id") if isinstance(row, dict) else None
            taken.append(TakenVideo(video_id=video_id if isinstance(video_id, str) else None, status="refused", error=sentence))
    if len(problems) == len(rows):
        first = problems[0]
        if isinstance(first, HTTPException):
            first.detail = f"none of the videos can be taken; the first: {first.detail}"
        raise first
    new = sum(each.new for each in taken)
    if new and wait:
        await _inbox(backend).show()
    return AddedVideos(received=len(rows), new=new, videos=taken)


async def _added(backend: Backend, values: Any, body: bytes | None, suffix: str, wait: bool, show: bool = True) -> Added:
    """Adds a video, whose file is `body` unless it is None, and counts it. What stands in its way becomes a 4xx or a 503."""
    inbox = _inbox(backend)
    try:
        given = checked(NewVideo, values, PATH).model_dump()
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    if body is None and given["uri"] is None and given["cover_uri"] is None:
        _check_facts(given)
    elif inbox.describe is None:
        raise HTTPException(404, OFF)
    if body is not None and not body:
        raise HTTPException(422, "the file is empty")
    outcome = "refused"
    try:
        added = await inbox.add(given, body, suffix, wait, show)
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
        backend.metrics.count("uploads_total", outcome=outcome)


def _inbox(backend: Backend) -> Inbox:
    if backend.inbox is None:
        raise HTTPException(404, OFF)
    return backend.inbox


def _parsed(body: bytes) -> dict[str, Any] | list[Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body can't be read as JSON") from error
    if not isinstance(found, dict | list):
        raise HTTPException(422, "the body must be a JSON object, or a list of them")
    return found


def _merged(told: dict[str, Any], row: Any) -> Any:
    """What the query says of a video, and what JSON says of it, which comes first."""
    return told | row if isinstance(row, dict) else row
