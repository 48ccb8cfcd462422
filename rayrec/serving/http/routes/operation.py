"""What operators call: withdrawing a video, and the probes."""

import asyncio

import numpy as np
from fastapi import APIRouter

from rayrec.serving.http.backend import Backend, VideoId
from rayrec.serving.http.schemas import Ready, Withdrawn
from rayrec.serving.recommender import now_ms


def create_router(backend: Backend) -> APIRouter:
    router = APIRouter(tags=["operation"])

    async def withdraw(video_id: str, withdrawn: bool) -> Withdrawn:
        recommender, _ = backend.find_video(video_id)
        await asyncio.to_thread(recommender.store.withdraw, video_id, withdrawn)
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
        user = await asyncio.to_thread(recommender.user, "")
        await recommender.rank("", user, now_ms(), np.ones(1, np.int32), {})
        return Ready(bundle=recommender.bundle.version)

    return router
