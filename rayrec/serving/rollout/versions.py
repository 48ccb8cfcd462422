"""Loads the versions that a replica serves: each one once, kept while it is needed, with older ones to fall back to."""

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from rayrec.recall.pipeline import ScoreError
from rayrec.serving.bundle import BundleError
from rayrec.serving.rank_calls import MAX_BATCH
from rayrec.serving.recommender import Recommender, now_ms

if TYPE_CHECKING:
    from rayrec.ranking.scorer import Scorer

WARM_UP = 600  # candidates of each request that warms a ranker up

T = TypeVar("T")

log = logging.getLogger(__name__)


class VersionCache(Generic[T]):
    """Loaded objects by version. Every method may be called from any thread."""

    def __init__(self, load: Callable[[str], T]) -> None:
        self._load, self._lock = load, threading.Lock()
        self._loaded: dict[str, T] = {}
        self._used: dict[str, float] = {}  # when each version was last asked for, seconds of a monotonic clock

    def __contains__(self, version: str) -> bool:
        return version in self._loaded

    def versions(self) -> list[str]:
        """The loaded versions, the oldest load first."""
        return list(self._loaded)

    def get(self, version: str) -> T:
        """The object of a version, which is loaded first if necessary; other callers wait for it. Raises what `load` raises."""
        found = self._loaded.get(version)
        if found is None:
            with self._lock:
                found = self._loaded.get(version)
                if found is None:
                    found = self._loaded[version] = self._load(version)
        self._used[version] = time.monotonic()
        return found

    def drop(self, keep: set[str], unused_s: float) -> None:
        """Drops the versions that are not in `keep` and were not asked for in the last `unused_s` seconds."""
        with self._lock:
            now = time.monotonic()
            for version in [version for version in self._loaded if version not in keep and now - self._used[version] >= unused_s]:
                del self._loaded[version], self._used[version]


async def first_that_loads(versions: Iterable[str], load: Callable[[str], Awaitable[T]]) -> T:
    """Loads the first version that can be loaded. Raises the error of the first one when none can, `BundleError` without any."""
    first: Exception | None = None
    for version in versions:
        try:
            return await load(version)
        except Exception as problem:
            log.exception("bundle %s can't be served", version)
            first = first or problem
    raise first or BundleError("there is no published bundle to load; run `rayrec publish CONFIG`")


def warm_up(scorer: "Scorer", folder: str) -> None:
    """Scores one request and a full batch like those of users. Raises `BundleError` when the scores are not probabilities."""
    candidates = np.arange(1, min(WARM_UP, len(scorer.item_ids) - 1) + 1, dtype=np.int32)
    for size in (1, MAX_BATCH):
        history, times = candidates[:1], np.array([now_ms()])
        scores = scorer.score(
            [""] * size, [history] * size, [times] * size, np.full(size, now_ms()), np.tile(candidates, (size, 1)), [{}] * size
        )
        if not np.isfinite(scores).all() or (scores < 0).any() or (not scorer.settings.goals and (scores > 1).any()):
            raise BundleError(f"{folder}: the ranker's scores are not probabilities; train and publish again")


async def try_out(recommender: Recommender) -> None:
    """Makes pages for the most active users and for an unknown one, without logging anything as shown.

    Raises `BundleError` when the ranker's answer does not fit the candidates, and when there is no video for the unknown user.
    """
    for user_id in [*recommender.bundle.top_users(5), ""]:
        try:
            page = await recommender.preview(user_id, k=1)
        except ScoreError as error:
            raise BundleError(f"bundle {recommender.bundle.version}: {error}") from error
    if not len(page.items):
        raise BundleError(
            f"bundle {recommender.bundle.version} answers nothing: all of its videos are withdrawn or not published yet"
        )
