"""The numbers of the dashboard: who is served what, what stands first in the queues, how often it is clicked, how swaps went."""

from typing import TYPE_CHECKING

import numpy as np

from rayrec.serving.http import answers
from rayrec.serving.http.schemas import Arm, Dashboard, Queue, QueuedVideo, SwapMade, Traffic
from rayrec.serving.recommender import Recommender
from rayrec.serving.rollout.arms import CANARY, Arms

if TYPE_CHECKING:
    from rayrec.serving.rollout.swaps import Swap  # which imports ray

HOUR_MS, HOURS = 3_600_000, 24
MAX_QUEUES, MAX_FIRST = 100, 10  # a catalog of a million videos has thousands of queues
MAX_USERS = 5


def dashboard(arms: Arms, swaps: "list[Swap]", now: int) -> Dashboard:
    """Reads the store; raises `StoreError` when that can't answer now."""
    stable = arms.stable
    return Dashboard(
        arms=[
            Arm(arm=name, bundle=recommender.bundle.version, share=arms.share if name == CANARY else 1 - arms.share)
            for name, recommender in arms.named().items()
        ],
        queues=_queues(stable),
        traffic=_traffic(stable, now),
        metrics=stable.bundle.info.metrics,
        swaps=[
            SwapMade(at=swap.at, bundle=swap.version, canary=swap.canary, share=swap.share, outcome=swap.outcome) for swap in swaps
        ],
        users=[user_id for user_id in stable.bundle.top_users(MAX_USERS) if not stable.user(user_id).forgotten],
        refreshed_at=stable.refreshed_at,
    )


def _traffic(recommender: Recommender, now: int) -> list[Traffic]:
    """By hour, the last one up to now; hours without events are there too."""
    first = now - now % HOUR_MS - (HOURS - 1) * HOUR_MS
    found = {each.at: (each.impressions, each.clicks) for each in recommender.store.traffic(first, HOUR_MS)}
    counts = [(at, *found.get(at, (0, 0))) for at in range(first, now + 1, HOUR_MS)]
    return [Traffic(at=at, impressions=impressions, clicks=clicks) for at, impressions, clicks in counts]


def _queues(recommender: Recommender) -> list[Queue]:
    """The longest ones."""
    words, queues = recommender.bundle.words, recommender.queues
    lengths = {topic: queues.length(topic) for topic in words}
    longest = sorted(words, key=lambda topic: (-lengths[topic], topic))[:MAX_QUEUES]
    return [
        Queue(topic=topic, words=words[topic], videos=lengths[topic], first=_first(recommender, queues.queue(topic, MAX_FIRST)))
        for topic in longest
    ]


def _first(recommender: Recommender, items: np.ndarray) -> list[QueuedVideo]:
    exposures, clicks = recommender.exposures[items].tolist(), recommender.clicks[items].tolist()
    return [
        QueuedVideo(
            video_id=facts["video_id"],
            title=facts["title"],
            ctr=round(clicked / max(shown, 1), 4),
            exposures=shown,
            cover=answers.cover_path(facts),
        )
        for facts, shown, clicked in zip(recommender.bundle.facts_of(items), exposures, clicks, strict=True)
    ]
