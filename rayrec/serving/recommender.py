"""One request, step by step: hydrate -> source -> drop -> backfill -> score -> select -> log what was shown.

The steps between hydrate and score are those of `recall/pipeline.py`, which the offline evaluation walks too. Nothing here knows of
Ray or HTTP: the ranker is any coroutine that scores, the store any `StateStore`.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rayrec.config import Recall, Selection
from rayrec.recall import pipeline
from rayrec.recall.queues import TopicQueues
from rayrec.recall.selection import Selector
from rayrec.recall.similar import by_topics, by_vector, nearest
from rayrec.serving.bundle import NOBODY, Bundle
from rayrec.serving.state.store import Event, StateStore

MAX_SEEN = 2000  # how many of the videos that a user has seen last are not shown again


class OverloadedError(Exception):
    """The ranker has more to do than it can; the same request may be answered a moment later."""


@dataclass(frozen=True)
class UserState:
    """What is known of a user at the time of a request, from the log and from the events after it."""

    clicked: np.ndarray  # int32 items, oldest first
    clicked_at: np.ndarray  # int64, UTC ms
    seen: np.ndarray  # int32 items
    forgotten: bool = False  # asked to be: the log and the ranker's user table must not speak for them


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
    topics: np.ndarray  # int32 [k]: the topic that brought each, or pipeline.POPULAR, pipeline.FRESH
    scores: np.ndarray  # float32 [k]: click probabilities
    trace: Trace
    arm: str | None = None  # that answered


class Recommender:
    """Answers from one bundle and the store. `refresh` may run in another thread than `recommend`."""

    def __init__(self, bundle: Bundle, store: StateStore, rank: Rank, recall: Recall, selection: Selection, seed: int) -> None:
        self.bundle, self.store, self.rank, self.settings = bundle, store, rank, recall
        self.selector = Selector(selection, bundle.item_topics, bundle.author_of)
        self._rng = np.random.default_rng(seed)
        self._since = store.since(bundle.facts.log_until)
        self.exposures, self.clicks = bundle.counters()
        self.refreshed_at, self.last_event_at = now_ms(), bundle.facts.log_until
        self._upto = 0  # the number of the last event counted
        self._withdrawn: set[str] = set()  # by id, for the bundle may not know them
        self._published_at = bundle.published_at()
        self._available = self._published_at <= self.refreshed_at
        self._withheld = np.zeros(len(self._available), dtype=bool)
        self._upcoming = np.flatnonzero(~self._available).astype(np.int32)
        self.queues = TopicQueues.build(bundle.item_topics, self.exposures, self.clicks, self._available, recall, self._rng)
        self.refresh(self.refreshed_at)

    def refresh(self, now: int) -> bool:
        """Bring the queues up to date with new events, videos that came out, and what was withdrawn; says if anything changed.

        `refreshed_at` is the `now` of the last one, `last_event_at` that of the last one that found new events.
        """
        counts, withdrawn = self.store.counts(self._upto, self._since), set(self.store.withdrawn())
        counted = self._items_of(counts.video_ids)
        out = self._published_at[self._upcoming] <= now
        turned = self._items_of(list(withdrawn ^ self._withdrawn))
        changed = np.unique(np.concatenate([counted, self._upcoming[out], turned]))
        changed = changed[changed > 0]
        self._withheld[turned] = ~self._withheld[turned]
        np.add.at(self.exposures, counted, counts.exposures)
        np.add.at(self.clicks, counted, counts.clicks)
        if counts.upto > self._upto:
            self.last_event_at = now
        self._upto, self._withdrawn, self._upcoming, self.refreshed_at = counts.upto, withdrawn, self._upcoming[~out], now
        if len(changed):
            self._available[changed] = (self._published_at[changed] <= now) & ~self._withheld[changed]
            self.queues = self.queues.updated(changed, self.exposures, self.clicks, self._available)
        return len(changed) > 0

    async def recommend(
        self,
        user_id: str,
        k: int,
        exclude: list[str],
        blocked_authors: Sequence[str] = (),
        context: dict[str, Any] | None = None,
        arm: str | None = None,
    ) -> Page:
        """At most k videos that the user has not seen, fewer only when the catalog has no more. They are logged as shown.

        `context` gives the ranker's context fields; those that it lacks are unknown. `arm` is put down with the impressions.
        """
        trace, now, settings, queues, draw_seed = Trace(), now_ms(), self.settings, self.queues, int(self._rng.integers(2**31))
        user = await asyncio.to_thread(self.user, user_id)
        trace.mark("hydrate", len(user.clicked))
        exclusions = self._exclusions(user, exclude, blocked_authors)
        candidates = pipeline.source(user.clicked, queues, settings, exclusions, draw_seed)
        trace.mark("source", len(candidates))
        candidates = pipeline.drop(candidates, exclusions)
        trace.mark("drop", len(candidates))
        candidates = pipeline.backfill(candidates, queues, exclusions, max(k, settings.candidates), draw_seed)
        trace.mark("backfill", len(candidates))
        scores = np.empty(0, np.float32)
        if len(candidates):
            scores = await self.rank("" if user.forgotten else user_id, user, now, candidates.items, context or {})
        trace.mark("score", len(candidates))
        rows = self.selector.select(candidates.items, scores, queues.is_fresh(candidates.items), k, draw_seed)
        page = Page(uuid.uuid4().hex, now, candidates.items[rows], candidates.topics[rows], scores[rows], trace, arm)
        trace.mark("select", len(rows))
        await self.add_events(self._impressions(user_id, page))  # before the answer, so that the next page can't repeat it
        trace.mark("log", len(rows))
        return page

    def similar(self, video_id: str, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The items (int32) that are most alike to a video and may be shown, and their similarities (float32), the nearest first.

        Raises `KeyError` for a video that the bundle does not know.
        """
        item, vectors = self.bundle.item_of[video_id], self.bundle.vectors
        found = by_vector(vectors, item) if vectors is not None else by_topics(self.bundle.item_topics, item)
        shown = self.queues.is_shown(found[0])
        items, similarity = found[0][shown], found[1][shown]
        rows = nearest(items, similarity, self.clicks, k)
        return items[rows], similarity[rows]

    def user(self, user_id: str) -> UserState:
        """The log's part and the store's, in the order of time. Unknown users have neither, forgotten ones have no log."""
        bundle, max_clicks = self.bundle, self.bundle.facts.max_clicks
        online = self.store.activity(user_id, self._since, max_clicks, MAX_SEEN)
        log = NOBODY if online.forgotten else bundle.user(user_id)
        clicked = np.concatenate([log.clicked, self._items_of(online.clicked)])
        clicked_at = np.concatenate([log.clicked_at, np.array(online.clicked_at, dtype=np.int64)])
        order = np.argsort(clicked_at, kind="stable")  # an event may come so late that the log goes on behind it
        order = order[clicked[order] > 0][-max_clicks:]
        seen = np.concatenate([log.seen, self._items_of(online.seen)])
        return UserState(clicked[order], clicked_at[order], seen[seen > 0][-MAX_SEEN:], online.forgotten)

    async def add_events(self, events: list[Event]) -> int:
        """Keep events; returns how many are new, once they are on the disk."""
        return await asyncio.to_thread(self.store.add_events, events)

    def _exclusions(self, user: UserState, exclude: list[str], blocked_authors: Sequence[str]) -> pipeline.Exclusions:
        blocked = [number for author in blocked_authors if (number := self.bundle.authors.get(author))]
        items = np.concatenate([user.seen, self._items_of(exclude)])
        return pipeline.Exclusions.of(items, np.array(blocked, dtype=np.int32), self.bundle.author_of)

    def _impressions(self, user_id: str, page: Page) -> list[Event]:
        shown = enumerate(self.bundle.item_ids[item] for item in page.items)
        return [
            Event(f"{page.request_id}-{place}", user_id, video_id, "impression", page.at, page.request_id, arm=page.arm)
            for place, video_id in shown
        ]

    def _items_of(self, video_ids: list[str]) -> np.ndarray:
        """Their items, 0 (which no queue holds) for those that the bundle does not know."""
        return np.array([self.bundle.item_of.get(video_id, 0) for video_id in video_ids], dtype=np.int32)


def now_ms() -> int:
    return time.time_ns() // 1_000_000
