"""How replicas come by what they serve from: loaded once, kept while it is needed, and never left with nothing."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from rayrec.recall import pipeline
from rayrec.serving.bundle import BundleError
from rayrec.serving.recommender import Recommender, now_ms

if TYPE_CHECKING:
    from rayrec.ranking.scorer import Scorer

MAX_BATCH = 8  # requests ranked in one forward
WARM_UP = 600  # candidates of the requests that warm a ranker up

T = TypeVar("T")

log = logging.getLogger(__name__)


class VersionCache(Generic[T]):
    """What has been loaded, by version. Every method may be called from any thread."""

    def __init__(self, load: Callable[[str], T]) -> None:
        self._load, self._lock = load, threading.Lock()
        self._things: dict[str, T] = {}
        self._used: dict[str, float] = {}  # when each was asked for last

    def __contains__(self, version: str) -> bool:
        return version in self._things

    def versions(self) -> list[str]:
        """What is there, the longest loaded first."""
        return list(self._things)

    def get(self, version: str) -> T:
        """Loads it here and now when it is not there; others who want it wait. Raises what `load` raises."""
        thing = self._things.get(version)
        if thing is None:
            with self._lock:
                thing = self._things.get(version)
                if thing is None:
                    thing = self._things[version] = self._load(version)
        self._used[version] = time.monotonic()
        return thing

    def drop(self, keep: set[str], unused_s: float) -> None:
        """Let go of what is not in `keep` and was not asked for in the last `unused_s` seconds."""
        with self._lock:
            now = time.monotonic()
            for version in [version for version in self._things if version not in keep and now - self._used[version] >= unused_s]:
                del self._things[version], self._used[version]


async def first_that_loads(versions: Iterable[str], load: Callable[[str], Awaitable[T]]) -> T:
    """What the first version that can be loaded gives. Raises what the first one raised when none can."""
    first: Exception | None = None
    for version in versions:
        try:
            return await load(version)
        except Exception as problem:
            log.exception("bundle %s can't be served", version)
            first = first or problem
    raise first or ValueError("there is no version to load")


def warm_up(scorer: "Scorer", folder: str) -> None:
    """Score what requests will look like, one and a full batch. Raises `BundleError` when what comes back are no probabilities."""
    candidates = np.arange(1, min(WARM_UP, len(scorer.item_ids) - 1) + 1, dtype=np.int32)
    for size in (1, MAX_BATCH):
        history, times = candidates[:1], np.array([now_ms()])
        scores = scorer.score(
            [""] * size, [history] * size, [times] * size, np.full(size, now_ms()), np.tile(candidates, (size, 1)), [{}] * size
        )
        if not ((scores >= 0) & (scores <= 1)).all():
            raise BundleError(f"{folder}: the ranker's scores are no probabilities; train and publish again")


async def try_out(recommender: Recommender) -> None:
    """Walk the steps of requests of the busiest users and of a new one, without showing anything to anybody.

    Raises `BundleError` when the ranker's answer does not fit the candidates.
    """
    bundle, settings, queues = recommender.bundle, recommender.settings, recommender.queues
    for user_id in [*bundle.busiest_users(5), ""]:
        user = await asyncio.to_thread(recommender.user, user_id)
        exclusions = pipeline.Exclusions.of(user.seen, np.empty(0, np.int32), bundle.author_of)
        candidates = pipeline.drop(pipeline.source(user.clicked, queues, settings, exclusions, draw_seed=0), exclusions)
        candidates = pipeline.backfill(candidates, queues, exclusions, settings.candidates, draw_seed=0)
        if len(candidates):
            scores = await recommender.rank(user_id, user, now_ms(), candidates.items, {})
            if len(scores) != len(candidates) or not np.isfinite(scores).all():
                raise BundleError(f"bundle {bundle.version}: the ranker's answer does not fit the candidates")
