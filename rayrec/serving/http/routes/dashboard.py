"""The numbers of the dashboard: who is served what, which videos lead the queues, how often users click, and how swaps went."""

import asyncio

import numpy as np
from fastapi import APIRouter

from rayrec.serving.http import answers
from rayrec.serving.http.backend import Backend
from rayrec.serving.http.experiment_schemas import ExperimentNumbers
from rayrec.serving.http.schemas import Arm, Dashboard, Queue, QueuedVideo, SwapMade, Traffic
from rayrec.serving.recommender import Recommender, now_ms
from rayrec.serving.rollout.arms import CANARY, Arms
from rayrec.serving.rollout.experiment_status import Reader
from rayrec.serving.rollout.history import Swap
from rayrec.serving.state.opening import exposure_of

HOUR_MS, HOURS = 3_600_000, 24
MAX_QUEUES = 100  # a catalog of a million videos has thousands of queues
MAX_VIDEOS_PER_QUEUE = 10
MAX_USERS = 5
READING_S = 1.0  # of one answer, for experiments; the next one goes on reading


def create_router(backend: Backend) -> APIRouter:
    router, reader = APIRouter(tags=["operation"]), Reader(backend.serving.experiments, exposure=exposure_of(backend.serving))

    @router.get("/v1/dashboard", summary="Get the numbers of the page /dashboard")
    async def numbers() -> Dashboard:
        return await asyncio.to_thread(lambda: _dashboard(backend.arms(), backend.swaps(), reader, now_ms()))

    return router


def _dashboard(arms: Arms, swaps: list[Swap], reader: Reader, now: int) -> Dashboard:
    """Reads the store; raises `StoreError` if the store can't answer now."""
    stable = arms.stable
    return Dashboard(
        arms=[
            Arm(arm=name, bundle=recommender.bundle.version, share=arms.share if name == CANARY else 1 - arms.share)
            for name, recommender in arms.named().items()
        ],
        queues=_queues(stable),
        traffic=_traffic(stable, now),
        ranker=stable.bundle.info.has_ranker,
        metrics=stable.bundle.info.metrics,
        swaps=[
            SwapMade(at=swap.at, bundle=swap.version, canary=swap.canary, share=swap.share, outcome=swap.outcome) for swap in swaps
        ],
        users=[user_id for user_id in stable.bundle.top_users(MAX_USERS) if not stable.user(user_id).forgotten],
        tracks=stable.bundle.music.tracks.num_rows if stable.bundle.music is not None else 0,
        experiments=[ExperimentNumbers.model_validate(each) for each in reader.statuses(stable.store, now, READING_S)],
        refreshed_at=stable.refreshed_at,
    )


def _traffic(recommender: Recommender, now: int) -> list[Traffic]:
    """The last hours, each with its counts. The last one ends now; hours without events are included."""
    first = now - now % HOUR_MS - (HOURS - 1) * HOUR_MS
    found = {each.at: (each.impressions, each.clicks) for each in recommender.store.traffic(first, HOUR_MS)}
    counts = [(at, *found.get(at, (0, 0))) for at in range(first, now + 1, HOUR_MS)]
    return [Traffic(at=at, impressions=impressions, clicks=clicks) for at, impressions, clicks in counts]


def _queues(recommender: Recommender) -> list[Queue]:
    """The longest queues, the longest first."""
    words, queues = recommender.bundle.words, recommender.queues
    lengths = {topic: queues.length(topic) for topic in words}
    longest = sorted(words, key=lambda topic: (-lengths[topic], topic))[:MAX_QUEUES]
    return [
        Queue(
            topic=topic,
            words=words[topic],
            videos=lengths[topic],
            first=_queued_videos(recommender, queues.queue(topic, MAX_VIDEOS_PER_QUEUE)),
        )
        for topic in longest
    ]


def _queued_videos(recommender: Recommender, items: np.ndarray) -> list[QueuedVideo]:
    exposures, clicks = recommender.exposures[items].tolist(), recommender.clicks[items].tolist()
    return [
        QueuedVideo(
            video_id=facts["video_id"],
            title=facts["title"],
            ctr=round(clicked / max(shown, 1), 4),
            exposures=shown,
            cover=answers.cover_path(facts),
        )
        for facts, shown, clicked in zip(recommender.items.facts_of(items), exposures, clicks, strict=True)
    ]
