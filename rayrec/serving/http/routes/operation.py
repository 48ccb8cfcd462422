"""What operators call: withdrawing a video, and the probes."""

import asyncio
import time

import numpy as np
from fastapi import APIRouter

from rayrec.serving.http.backend import Backend, VideoId
from rayrec.serving.http.schemas import Ready, Withdrawn
from rayrec.serving.recommender import Recommender, now_ms

READY_S = 1.0  # how long the answer of /readyz holds, so that probes cost the ranker at most one call a second


def create_router(backend: Backend) -> APIRouter:
    router, probe = APIRouter(tags=["operation"]), _Probe()

    async def withdraw(video_id: str, withdrawn: bool) -> Withdrawn:
        recommender, _ = backend.find_video(video_id)
        await backend.write(recommender.store.withdraw, video_id, withdrawn)
        return Withdrawn(video_id=video_id, withdrawn=withdrawn)

    @router.put("/v1/withdrawn/{video_id:path}", summary="Keep a video out of all pages")
    async def put_withdrawn(video_id: VideoId) -> Withdrawn:
        return await withdraw(video_id, True)

    @router.delete("/v1/withdrawn/{video_id:path}", summary="Allow a withdrawn video in pages again")
    async def delete_withdrawn(video_id: VideoId) -> Withdrawn:
        return await withdraw(video_id, False)

    @router.get("/healthz", summary="Check whether the service runs")
    async def healthz() -> Ready:
        arms = backend.loaded_arms()
        return Ready(bundle=arms.stable.bundle.version if arms else None)

    @router.get("/readyz", summary="Check whether the service can answer: a bundle is loaded and the ranker scores")
    async def readyz() -> Ready:
        recommender = backend.arms().stable
        await probe.check(recommender)
        return Ready(bundle=recommender.bundle.version)

    return router


class _Probe:
    """Tries whether the store can be read and the ranker scores, at most once in `READY_S` for all who ask."""

    def __init__(self) -> None:
        self._lock, self._asked, self._at = asyncio.Lock(), "", 0.0
        self._problem: Exception | None = None

    async def check(self, recommender: Recommender) -> None:
        """Raises what the last try raised."""
        async with self._lock:
            if self._asked != recommender.bundle.version or time.monotonic() - self._at > READY_S:
                try:
                    user = await asyncio.to_thread(recommender.user, "")
                    await recommender.rank("", user, now_ms(), np.ones(1, np.int32), {})
                    self._problem = None
                except Exception as problem:
                    self._problem = problem
                self._asked, self._at = recommender.bundle.version, time.monotonic()
            if self._problem is not None:
                raise self._problem.with_traceback(None)
