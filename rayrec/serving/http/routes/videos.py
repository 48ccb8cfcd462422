"""The catalog: topics, videos with their covers and files, and similar videos."""

import asyncio
import logging
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from rayrec.serving.covers import CoverError
from rayrec.serving.http import answers
from rayrec.serving.http.backend import Backend, UserOfQuery, VideoId
from rayrec.serving.http.media import answer_with
from rayrec.serving.http.schemas import AttentionAnswer, SimilarAnswer, Topic, Video

COVER: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}, "description": "The cover"}
}

log = logging.getLogger(__name__)


def create_router(backend: Backend) -> APIRouter:
    router, max_k = APIRouter(), backend.serving.max_k

    @router.get("/v1/topics", summary="List all topics")
    async def topics() -> list[Topic]:
        rows = backend.arms().stable.bundle.topics.to_pylist()
        return [Topic(topic=row["topic"], words=row["words"] or [], videos=row["videos"]) for row in rows]

    # The paths take ids that hold slashes, so the longer paths come first.
    @router.get("/v1/videos/{video_id:path}/cover", summary="Get a video's cover (JPEG)", response_class=Response, responses=COVER)
    async def cover(video_id: VideoId) -> Response:
        recommender, item = backend.find_video(video_id)
        try:
            jpeg = await backend.read(recommender.items.cover, item)
        except CoverError as error:
            log.error("%s", error)
            raise HTTPException(404, f"video {video_id!r} has no cover that can be read; the service's log says why") from error
        if jpeg is None:
            raise HTTPException(404, f"video {video_id!r} has no cover")
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @router.get("/v1/videos/{video_id:path}/file", summary="Get a video file; byte ranges are supported", response_class=Response)
    async def file(video_id: VideoId, request: Request) -> Response:
        """A file on this machine or in a store such as S3 is sent; to one on the web, the answer is a redirect."""
        recommender, item = backend.find_video(video_id)
        uri = recommender.items.facts_of(np.array([item]))[0]["uri"]
        return await answer_with(uri, f"video {video_id!r}", request.headers, backend.read)

    @router.get("/v1/videos/{video_id:path}/attention", summary="Get where a user looks at a video's cover")
    async def attention(video_id: VideoId, user_id: UserOfQuery) -> AttentionAnswer:
        """Gives the attention that the user's kernels pay to the places of the cover, as the ranker computes it.

        Users whom the training did not know have the mean kernels of all. `places` is null where the ranker has no user kernels,
        and for a video without feature maps; `reason` then says which it is.
        """
        _, recommender = backend.arms().arm_of(user_id)
        try:
            found = await recommender.attention(user_id, video_id)
        except KeyError:
            raise HTTPException(404, f"there is no video {video_id!r}") from None
        return answers.attention(user_id, video_id, recommender.bundle.version, found)

    @router.get("/v1/videos/{video_id:path}", summary="Get what is known about a video")
    async def video(video_id: VideoId) -> Video:
        recommender, item = backend.find_video(video_id)
        return answers.video(recommender, item)

    @router.get("/v1/similar/{video_id:path}", summary="List the videos that are most similar to a video")
    async def similar(video_id: VideoId, k: Annotated[int, Query(ge=1, le=max_k)] = min(10, max_k)) -> SimilarAnswer:
        """Compares the videos' vectors, or their topics if the topics stage made no vectors. The most similar video comes first."""
        recommender, _ = backend.find_video(video_id)
        items, similarity = await asyncio.to_thread(recommender.similar, video_id, k)
        return SimilarAnswer(video_id=video_id, videos=answers.similar(recommender, items, similarity))

    return router
