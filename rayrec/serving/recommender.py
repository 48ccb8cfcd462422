"""Answers requests for pages: hydrate -> recall pipeline (source, filter, backfill, score, select) -> log what was shown.

The pipeline is `recall/pipeline.py`, which the offline evaluation uses too. Nothing here knows of Ray or HTTP: the ranker is any
coroutine that scores, and the store is any `StateStore`.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rayrec.config import Recall, Selection
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.pipeline import RecallPipeline, Trace
from rayrec.recall.queues import TopicQueues
from rayrec.recall.similar import by_topics, by_vector, nearest
from rayrec.recall.source import Query
from rayrec.serving.bundle import Bundle
from rayrec.serving.state.store import Event, StateStore, StoreError
from rayrec.serving.user_log import UNKNOWN_USER

MAX_SEEN = 2000  # how many of the videos that a user has seen last are not shown again
WRITE_WAIT_S = 2.0  # how long an answer waits for the store to write; while the store can't write at all, only the first ones wait

log = logging.getLogger(__name__)


class OverloadedError(Exception):
    """The ranker has more work than it can do now. The same request may be answered a moment later."""


@dataclass(frozen=True)
class UserState:
    """What is known of a user at the time of a request, from the training log and from later events."""

    clicked: np.ndarray  # int32 items, oldest first
    clicked_at: np.ndarray  # int64, UTC ms
    seen: np.ndarray  # int32 items
    forgotten: bool = False  # the user asked for it: the log and the ranker's user table must not be used


# (user_id, state, time in UTC ms, candidates int32 [n], context: field -> value) -> click probabilities float32 [n]
Rank = Callable[[str, UserState, int, np.ndarray, dict[str, Any]], Awaitable[np.ndarray]]


@dataclass(frozen=True)
class Page:
    """The answer to a request, the best video first."""

    request_id: str
    at: int  # UTC ms
    items: np.ndarray  # int32 [k]
    why: np.ndarray  # str [k]: the label of the source that brought each video
    topics: np.ndarray  # int32 [k]: the topic that brought each video, NO_TOPIC where none did
    scores: np.ndarray  # float32 [k]: click probabilities
    trace: Trace
    arm: str | None = None  # the arm that answered
    logged: bool = True  # whether the store has the videos as shown; otherwise the next page may hold them again


class Recommender:
    """Answers from one bundle and the store. `refresh` may run in another thread than `recommend`.

    Raises `ConfigError` when the config names an unknown recall source. `lost` is told how many impressions could not be stored, in
    any thread.
    """

    def __init__(
        self,
        bundle: Bundle,
        store: StateStore,
        rank: Rank,
        recall: Recall,
        selection: Selection,
        seed: int,
        lost: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.bundle, self.store, self.rank, self.settings, self._lost = bundle, store, rank, recall, lost
        self.pipeline = RecallPipeline(recall, selection, bundle.item_data)
        self._rng = np.random.default_rng(seed)
        self._since = store.since(bundle.info.log_until, bundle.info.log_upto)
        self.exposures, self.clicks = bundle.counters()
        self.refreshed_at, self.last_event_at = now_ms(), bundle.info.log_until
        self._upto = 0  # the number of the last event counted
        self._withdrawn: set[str] = set()  # by id, for the bundle may not know them
        self._published_at = bundle.published_at()
        self._available = self._published_at <= self.refreshed_at
        self._withheld = np.zeros(len(self._available), dtype=bool)
        self._upcoming = np.flatnonzero(~self._available).astype(np.int32)
        self.queues = TopicQueues.build(bundle.item_topics, self.exposures, self.clicks, self._available, recall, self._rng)
        self.refresh(self.refreshed_at)

    def refresh(self, now: int) -> bool:
        """Updates the queues with new events, newly published videos and withdrawals. Returns whether anything changed.

        `now` is in UTC ms. `refreshed_at` is the `now` of the last refresh, `last_event_at` that of the last one with new events.
        """
        counts, withdrawn = self.store.counts(self._upto, self._since), set(self.store.withdrawn())
        counted = self._items_of(counts.video_ids)
        published = self._published_at[self._upcoming] <= now
        toggled = self._items_of(list(withdrawn ^ self._withdrawn))
        changed = np.unique(np.concatenate([counted, self._upcoming[published], toggled]))
        changed = changed[changed > 0]
        self._withheld[toggled] = ~self._withheld[toggled]
        np.add.at(self.exposures, counted, counts.exposures)
        np.add.at(self.clicks, counted, counts.clicks)
        if counts.upto > self._upto:
            self.last_event_at = now
        self._upto, self._withdrawn, self._upcoming, self.refreshed_at = counts.upto, withdrawn, self._upcoming[~published], now
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
        """A page of at most k videos that the user has not seen, fewer only when the catalog has no more. They are logged as shown.

        A store that can't write now does not stop pages: the page then says that it is not `logged`. Its impressions are stored as
        soon as the store can write, or else are lost and counted.

        `context` gives the ranker's context fields; fields that it lacks are unknown. `arm` is stored with the impressions. Raises
        what the ranker raises, and `ScoreError` when its answer does not fit the candidates.
        """
        page = await self.preview(user_id, k, exclude, blocked_authors, context, arm, int(self._rng.integers(2**31)))
        page = replace(
            page, logged=await self._log(self._impressions(user_id, page))
        )  # before the answer, so that no page repeats it
        page.trace.mark("log", len(page.items))
        return page

    async def preview(
        self,
        user_id: str,
        k: int,
        exclude: Sequence[str] = (),
        blocked_authors: Sequence[str] = (),
        context: dict[str, Any] | None = None,
        arm: str | None = None,
        draw_seed: int = 0,
    ) -> Page:
        """The page that `recommend` would answer with, without logging it. `draw_seed` decides what is drawn at random."""
        trace, now, queues = Trace(), now_ms(), self.queues
        user = await asyncio.to_thread(self.user, user_id)
        known_as = "" if user.forgotten else user_id
        trace.mark("hydrate", len(user.clicked))

        async def score(items: np.ndarray) -> np.ndarray:
            return await self.rank(known_as, user, now, items, context or {})

        exclusions = self._exclusions(user, exclude, blocked_authors)
        query = Query(known_as, user.clicked, user.clicked_at, exclusions, draw_seed)
        found = await self.pipeline.run(query, queues, score, k, trace)
        page = found.candidates.take(found.rows)
        return Page(uuid.uuid4().hex, now, page.items, found.why, page.topics, found.scores[found.rows], trace, arm)

    def similar(self, video_id: str, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The items (int32) most similar to a video, and their similarities (float32), the most similar first.

        Videos that may not be shown are left out. Raises `KeyError` for a video that is not in the bundle.
        """
        item, vectors = self.bundle.item_of[video_id], self.bundle.vectors
        found = by_vector(vectors, item) if vectors is not None else by_topics(self.bundle.item_topics, item)
        shown = self.queues.is_shown(found[0])
        items, similarity = found[0][shown], found[1][shown]
        rows = nearest(items, similarity, self.clicks, k)
        return items[rows], similarity[rows]

    def user(self, user_id: str) -> UserState:
        """Merges the log and the store in the order of time. Unknown users are in neither, forgotten ones are not in the log."""
        bundle, max_clicks = self.bundle, self.bundle.info.max_clicks
        online = self.store.activity(user_id, self._since, max_clicks, MAX_SEEN)
        log = UNKNOWN_USER if online.forgotten else bundle.user(user_id)
        clicked = np.concatenate([log.clicked, self._items_of(online.clicked)])
        clicked_at = np.concatenate([log.clicked_at, np.array(online.clicked_at, dtype=np.int64)])
        order = np.argsort(clicked_at, kind="stable")  # an event may arrive so late that the log has later clicks
        order = order[clicked[order] > 0][-max_clicks:]
        seen = np.concatenate([log.seen, self._items_of(online.seen)])
        return UserState(clicked[order], clicked_at[order], seen[seen > 0][-MAX_SEEN:], online.forgotten)

    async def add_events(self, events: list[Event]) -> list[Event]:
        """Stores events. Returns those that were there already, after all others have been written to disk.

        Raises `StoreError` if they were not written in time; they may be written later.
        """
        return await self._in_time(self.store.submit(events))

    async def _log(self, impressions: list[Event]) -> bool:
        """Stores what was shown, and returns whether that was done in time."""
        writing = self.store.submit(impressions)
        writing.add_done_callback(lambda done: self._lost(len(impressions)) if done.exception() else None)
        try:
            await self._in_time(writing)
        except StoreError as error:
            log.warning("a page is answered whose %d impressions are not stored yet: %s", len(impressions), error)
            return False
        return True

    async def _in_time(self, writing: "Future[list[Event]]") -> list[Event]:
        """The result of a write. Raises `StoreError` if the store has been at its oldest write for longer than `WRITE_WAIT_S`."""
        written = asyncio.wrap_future(writing)
        written.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may come too late for anybody to ask
        await asyncio.wait([written], timeout=max(0.0, WRITE_WAIT_S - self.store.write_delay()))
        if not written.done():
            raise StoreError(f"the events have waited for {self.store.write_delay():.1f} s to be written")
        return written.result()

    def _exclusions(self, user: UserState, exclude: Sequence[str], blocked_authors: Sequence[str]) -> Exclusions:
        blocked = [number for author in blocked_authors if (number := self.bundle.authors.get(author))]
        items = np.concatenate([user.seen, self._items_of(exclude)])
        return Exclusions.of(items, np.array(blocked, dtype=np.int32), self.bundle.author_of)

    def _impressions(self, user_id: str, page: Page) -> list[Event]:
        shown = enumerate(self.bundle.item_ids[item] for item in page.items)
        ours = uuid.uuid4().hex  # not the request's id, which callers know and may make ids of their own events from
        return [
            Event(f"{ours}-{position}", user_id, video_id, "impression", page.at, page.request_id, arm=page.arm)
            for position, video_id in shown
        ]

    def _items_of(self, video_ids: Sequence[str]) -> np.ndarray:
        """The items of these videos, 0 (which is in no queue) for those that are not in the bundle."""
        return np.array([self.bundle.item_of.get(video_id, 0) for video_id in video_ids], dtype=np.int32)


def now_ms() -> int:
    """The present time in UTC milliseconds."""
    return time.time_ns() // 1_000_000
