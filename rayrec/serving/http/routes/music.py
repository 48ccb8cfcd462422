"""Music for a video and a user, and the sounds of tracks."""

import asyncio

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from rayrec.serving.http import answers
from rayrec.serving.http.backend import Backend, TrackId
from rayrec.serving.http.bodies import MusicRequest
from rayrec.serving.http.media import answer_with
from rayrec.serving.http.music_schemas import MusicAnswer
from rayrec.serving.music import NOBODY, Best, Music
from rayrec.serving.recommender import Recommender
from rayrec.serving.search_query import SearchError

PATH = "/v1/music"
NO_MUSIC = (
    "bundle {} has no music; add a section `music` to the config, then run `rayrec run CONFIG` and `rayrec swap CONFIG` (or, if no "
    "service runs yet, `rayrec serve CONFIG`)"
)
NO_SPACE = (
    "vectors: this service can't compare them with tracks; that takes a section `search` in the config, with `audio` among its "
    "modalities, and tracks with sound files; send video_id instead"
)


def create_router(backend: Backend) -> APIRouter:
    router, max_k = APIRouter(), backend.max_tracks

    @router.post(PATH, summary="Choose music for a video and a user")
    async def music(request: MusicRequest) -> MusicAnswer:
        """Returns the k tracks that go best with the video and the user's taste, the best first.

        The video is one that the service knows, by its id, or any other, by its features as `extract` finds them. A user who is
        unknown or was forgotten is taken for the mean user.
        """
        if request.k > max_k:
            raise HTTPException(422, f"k: an answer holds at most {max_k} tracks (music.max_k), not {request.k}")
        if (request.video_id is None) == (request.vectors is None):
            raise HTTPException(422, "give either video_id or vectors")
        _, recommender = backend.arms().arm_of(request.user_id or NOBODY)
        if (found := recommender.bundle.music) is None:
            raise HTTPException(404, NO_MUSIC.format(recommender.bundle.version))
        place = await _place(backend, recommender, found, request)
        best = await asyncio.to_thread(_best, recommender, found, request.user_id, place, request.k)
        backend.metrics.count("music_total", kind="vectors" if request.vectors else "video")
        return MusicAnswer(bundle=recommender.bundle.version, tracks=answers.tracks(found, best))

    @router.get("/v1/tracks/{track_id:path}/file", summary="Get a track's file; byte ranges are supported", response_class=Response)
    async def file(track_id: TrackId, request: Request) -> Response:
        """A file on this machine or in a store such as S3 is sent; to one on the web, the answer is a redirect."""
        for recommender in backend.arms().named().values():
            known = recommender.bundle.music
            if known is not None and (row := await asyncio.to_thread(known.find, track_id)) is not None:
                uri = known.facts_of(np.array([row]))[0]["uri"]
                return await answer_with(uri, f"track {track_id!r}", request.headers, backend.read)
        raise HTTPException(404, f"there is no track {track_id!r}")

    return router


async def _place(backend: Backend, recommender: Recommender, music: Music, request: MusicRequest) -> np.ndarray | None:
    """Where the video of a request is in the space of search; None if that is not known. Raises a 404 and a 422."""
    asked: str | dict[str, list[float]]
    if request.video_id is not None:
        if not (item := recommender.items.find(request.video_id)):
            raise HTTPException(404, f"there is no video {request.video_id!r}")
        if item <= recommender.bundle.items.num_rows:
            return music.place_of(item)
        if not music.has_space or backend.place is None:
            return None
        asked = request.video_id  # it was added after the bundle was made
    else:
        assert request.vectors is not None
        if not music.has_space or backend.place is None:
            raise HTTPException(422, NO_SPACE)
        asked = request.vectors.model_dump(exclude_none=True)
    try:
        return await backend.place(recommender.bundle.version, asked)
    except SearchError as error:
        raise HTTPException(error.status, str(error)) from error


def _best(recommender: Recommender, music: Music, user_id: str | None, place: np.ndarray | None, k: int) -> Best:
    """Reads the store; raises `StoreError` if the store can't answer now."""
    if user_id is None or recommender.user(user_id).forgotten:
        user_id = NOBODY
    return music.best(user_id, place, k)
