"""One request, step by step: hydrate -> source -> drop -> backfill -> score -> select -> log what was shown.

The steps between hydrate and select are those of `recall/steps.py`, which the offline evaluation walks too. Nothing here knows of
Ray or HTTP: the ranker is any coroutine that scores, the store any `StateStore`.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rayrec.config import Recall
from rayrec.recall import steps
from rayrec.recall.queues import TopicQueues
from rayrec.serving.bundle import Bundle
from rayrec.serving.store import Event, StateStore

MOST_SEEN = 2000  # how many of the videos that a user has seen last are not shown again


class OverloadedError(Exception):
    """The ranker has more to do than it can; the same request may be answered a moment later."""


@dataclass(frozen=True)
class UserState:
    """What is known of a user at the time of a request, from the log and from the events after it."""

    clicked: np.ndarray  # int32 items, oldest first
    clicked_at: np.ndarray  # int64, UTC ms
    seen: np.ndarray  # int32 items


# (user_id, state, time in UTC ms, candidates int32 [n], context: field -> value) -> click probabilities float32 [n]
Rank = Callable[[str, UserState, int, np.ndarray, dict[str, Any]], Awaitable[np.ndarray]]


@dataclass(frozen=True)
class Step:
    """What a step took and how many things it left: clicks after hydrate, candidates after the others, videos after select."""

    name: str
    milliseconds: float
    count: int


@dataclass
class Trace:
    """The steps of one request, timed one after the other."""

    steps: list[Step] = field(default_factory=list)
    _last: float = field(default_factory=time.perf_counter)

    def mark(self, name: str, count: int) -> None:
        now = time.perf_counter()
        self.steps.append(Step(name, (now - self._last) * 1000, count))
        self._last = now


@dataclass(frozen=True)
class Page:
    """The answer to a request, the best video first."""

    request_id: str
    at: int  # UTC ms
    items: np.ndarray  # int32 [k]
    topics: np.ndarray  # int32 [k]: the topic that brought each, or steps.POPULAR, steps.FRESH
    scores: np.ndarray  # float32 [k]: click probabilities
    trace: Trace


class Recommender:
    """Answers from one bundle and the store. `refresh` may run in another thread than `recommend`."""

    def __init__(self, bundle: Bundle, store: StateStore, rank: Rank, settings: Recall, seed: int) -> None:
        self.bundle, self.store, self.rank, self.settings = bundle, store, rank, settings
        self._rng = np.random.default_rng(seed)
        self._published_at = bundle.published_at()
        self._exposures, self._clicks = bundle.counters()
        self._upto = 0  # the number of the last event counted
        self._available = np.zeros(0, dtype=bool)
        self.refresh(now_ms())

    def refresh(self, now: int) -> bool:
        """Count the events that are new and rebuild the queues when there are any, or when a video came out; says if it did."""
        counts = self.store.counts(self._upto, self.bundle.facts.log_until)
        available = self._published_at <= now
        if counts.upto == self._upto and np.array_equal(available, self._available):
            return False
        items = self._items_of(counts.video_ids)
        np.add.at(self._exposures, items, counts.exposures)
        np.add.at(self._clicks, items, counts.clicks)
        self._upto, self._available = counts.upto, available
        self.queues = TopicQueues.build(self.bundle.item_topics, self._exposures, self._clicks, available, self.settings, self._rng)
        return True

    async def recommend(self, user_id: str, k: int, exclude: list[str], context: dict[str, Any] | None = None) -> Page:
        """At most k videos that the user has not seen, fewer only when the catalog has no more. They are logged as shown.

        `context` gives the ranker's context fields; those that it lacks are unknown.
        """
        trace, now, settings, queues = Trace(), now_ms(), self.settings, self.queues
        user = hydrate(self.bundle, self.store, user_id)
        trace.mark("hydrate", len(user.clicked))
        candidates = steps.source(user.clicked, self.bundle.item_topics, queues, settings)
        trace.mark("source", len(candidates))
        banned = np.concatenate([user.seen, self._items_of(exclude)])
        candidates = steps.drop(candidates, banned)
        trace.mark("drop", len(candidates))
        candidates = steps.backfill(candidates, queues, banned, max(k, settings.candidates), settings.fresh_share)
        trace.mark("backfill", len(candidates))
        scores = np.empty(0, np.float32)
        if len(candidates):
            scores = await self.rank(user_id, user, now, candidates.items, context or {})
        trace.mark("score", len(candidates))
        best = steps.select(candidates, scores, k)
        page = Page(uuid.uuid4().hex, now, candidates.items[best], candidates.topics[best], scores[best], trace)
        trace.mark("select", len(best))
        await self.add_events(self._impressions(user_id, page))  # before the answer, so that the next page can't repeat it
        trace.mark("log", len(best))
        return page

    def user(self, user_id: str) -> UserState:
        return hydrate(self.bundle, self.store, user_id)

    async def add_events(self, events: list[Event]) -> int:
        """Keep events; returns how many are new, once they are on the disk."""
        return await asyncio.to_thread(self.store.add_events, events)

    def _impressions(self, user_id: str, page: Page) -> list[Event]:
        shown = enumerate(self.bundle.item_ids[item] for item in page.items)
        return [Event(f"{page.request_id}-{n}", user_id, video_id, "impression", page.at, page.request_id) for n, video_id in shown]

    def _items_of(self, video_ids: list[str]) -> np.ndarray:
        """Their items, 0 (which no queue holds) for those that the bundle does not know."""
        return np.array([self.bundle.item_of.get(video_id, 0) for video_id in video_ids], dtype=np.int32)


def hydrate(bundle: Bundle, store: StateStore, user_id: str) -> UserState:
    """The log's part and, behind it, the store's: events count from the log's end on. Unknown users have neither."""
    log, most_clicks = bundle.user(user_id), bundle.facts.most_clicks
    online = store.activity(user_id, bundle.facts.log_until, most_clicks, MOST_SEEN)
    pairs = [
        (item, at) for video_id, at in zip(online.clicked, online.clicked_at, strict=True) if (item := bundle.item_of.get(video_id))
    ]
    clicked = np.concatenate([log.clicked, np.array([item for item, _ in pairs], dtype=np.int32)])
    clicked_at = np.concatenate([log.clicked_at, np.array([at for _, at in pairs], dtype=np.int64)])
    seen = np.array([item for video_id in online.seen if (item := bundle.item_of.get(video_id))], dtype=np.int32)
    return UserState(clicked[-most_clicks:], clicked_at[-most_clicks:], np.concatenate([log.seen, seen])[-MOST_SEEN:])


def now_ms() -> int:
    return time.time_ns() // 1_000_000
