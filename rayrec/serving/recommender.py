"""Answers requests for pages: hydrate -> recall pipeline (source, filter, backfill, score, select) -> log what was shown.

The pipeline is `recall/pipeline.py`, which the offline evaluation uses too. Nothing here knows of Ray or HTTP: the ranker is any
coroutine that scores, and the store is any `StateStore`.
"""

import asyncio
import json
import logging
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rayrec.config import Formula, Recall, Selection, scored
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.feedback import Said, blocked_authors, standing, unwanted
from rayrec.recall.pipeline import RecallPipeline, ScoreError, Trace
from rayrec.recall.queues import NO_ITEMS, TopicQueues
from rayrec.recall.similar import nearest
from rayrec.recall.source import Query
from rayrec.serving.assignment import NO_EXPERIMENTS, NOTHING, Change, Experiments
from rayrec.serving.attention import Attention
from rayrec.serving.bundle import Bundle
from rayrec.serving.items import Items
from rayrec.serving.pages import AGAIN, NO_VISIT, Page, Visit, with_seen
from rayrec.serving.seen_index import longest_unseen
from rayrec.serving.state.seen import implied_views
from rayrec.serving.state.store import DAY, Activity, Addition, Event, Since, StateStore, StoreError
from rayrec.serving.user_log import UNKNOWN_USER

DELIVERED_MS = 3_600_000  # for so long, what was delivered is not delivered again before all else, even if no view was reported
WRITE_WAIT_S = 2.0  # how long an answer waits for the store to write; while the store can't write at all, only the first ones wait

log = logging.getLogger(__name__)


class OverloadedError(Exception):
    """The ranker has more work than it can do now. The same request may be answered a moment later."""


@dataclass(frozen=True)
class UserState:
    """What is known of a user at the time of a request, from the training log and from later events."""

    clicked: np.ndarray  # int32 items, oldest first
    clicked_at: np.ndarray  # int64, UTC ms
    seen: np.ndarray  # int32 items, the longest unseen first; of an item that is there twice, the last time counts
    forgotten: bool = False  # the user asked for it: the log and the ranker's user table must not be used
    fields: str = ""  # what was said of the user by `POST /v1/users`, JSON; empty where nothing was
    delivered: np.ndarray = field(default_factory=lambda: NO_ITEMS)  # int32 items that may be waiting on the user's screen
    said: Sequence[Said] = ()  # what the user said of videos and did not take back, oldest first


# (user_id, state, time in UTC ms, candidates int32 [n], context: field -> value) -> click probabilities float32 [n] or, from a
# ranker with goals, the value of each [n, G]. The items are those of `Items.in_store`.
Rank = Callable[[str, UserState, int, np.ndarray, dict[str, Any]], Awaitable[np.ndarray]]

# (user_id, an item of `Items.in_store`) -> where the user looks at its cover, or a sentence that says why that is not known.
Look = Callable[[str, int], Awaitable[Attention | str]]


async def rank_in_order(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
    """The `Rank` of a bundle without a ranker. The candidates keep their order: the first one has 1, and the last almost 0."""
    return np.linspace(1, 0, len(candidates), endpoint=False, dtype=np.float32)


async def look_nowhere(user_id: str, item: int) -> Attention | str:
    """The `Look` of a bundle without a ranker."""
    return "the bundle has no ranker"


@dataclass(frozen=True)
class View:
    """What a request is answered from. The three belong together: they know the same items."""

    items: Items
    pipelines: Mapping[Change, RecallPipeline]  # one for each combination of arms that make pages otherwise
    queues: TopicQueues


class Recommender:
    """Answers from one bundle and the store. `refresh` may run in another thread than `recommend`.

    Raises `ConfigError` when the config names an unknown recall source, or a goal that the bundle's ranker lacks. `lost` is told
    how many impressions could not be stored, in any thread.
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
        look: Look = look_nowhere,
        experiments: Experiments = NO_EXPERIMENTS,
    ) -> None:
        self.bundle, self.store, self.rank, self.settings, self._lost, self.look = bundle, store, rank, recall, lost, look
        self._combinations, self._refreshing = experiments.combinations(recall, selection), threading.Lock()
        self._formulas = {change: bundle.formula(selection.score) for change, (_, selection) in self._combinations.items()}
        self._rng = np.random.default_rng(seed)
        self._since = store.since(bundle.info.log_until, bundle.info.log_upto)
        self.exposures, self.clicks = bundle.counters()
        self.refreshed_at, self.last_event_at = now_ms(), bundle.info.log_until
        self._upto = 0  # the number of the last event counted
        self._added_upto = 0  # the number of the last added video
        self._withdrawn: set[str] = set()  # by id, for the bundle may not know them
        self._published_at = bundle.published_at()
        self._available = self._published_at <= self.refreshed_at
        self._withheld = np.zeros(len(self._available), dtype=bool)
        self._upcoming = np.flatnonzero(~self._available).astype(np.int32)
        items = Items.of(bundle)
        queues = TopicQueues.build(items.topics, self.exposures, self.clicks, self._available, recall, self._rng)
        self.view = View(items, self._pipelines(items), queues)
        self.refresh(self.refreshed_at)

    @property
    def items(self) -> Items:
        """All items that are known now. An item keeps its place when others are added."""
        return self.view.items

    @property
    def queues(self) -> TopicQueues:
        return self.view.queues

    def refresh(self, now: int) -> bool:
        """Updates the queues with new events, new and newly published videos and withdrawals. Returns whether anything changed.

        `now` is in UTC ms. `refreshed_at` is the `now` of the last refresh, `last_event_at` that of the last one with new events.
        """
        with self._refreshing:
            return self._refresh(now)

    def _refresh(self, now: int) -> bool:
        # In this order: the video of an event that was counted has been added before.
        counts, withdrawn = self.store.counts(self._upto, self._since), set(self.store.withdrawn())
        self._take(self.store.additions(self._added_upto))
        counted = self.items.find_all(counts.video_ids)
        published = self._published_at[self._upcoming] <= now
        toggled = self.items.find_all(list(withdrawn ^ self._withdrawn))
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
            self.view = replace(self.view, queues=self.queues.updated(changed, self.exposures, self.clicks, self._available))
        return len(changed) > 0

    def _take(self, additions: Sequence[Addition]) -> None:
        """Hands new videos to all who know items. They are hidden until the queues are updated.

        This is the place where another index over the items, such as one for search, is to be told of them.
        """
        if not additions:
            return
        self._added_upto, first = additions[-1].number, len(self.items)
        items = self.items.grown(additions)
        new = items.added[len(items.added) - (len(items) - first) :]
        if not new:
            return
        published_at = np.array([video.facts.get("published_at") or 0 for video in new], np.int64)
        nothing = np.zeros(len(new), np.int64)
        self.exposures, self.clicks = np.append(self.exposures, nothing), np.append(self.clicks, nothing)
        self._published_at = np.append(self._published_at, published_at)
        self._available = np.append(self._available, nothing > 0)
        self._withheld = np.append(self._withheld, [video.video_id in self._withdrawn for video in new])
        self._upcoming = np.append(self._upcoming, np.arange(first, len(items), dtype=np.int32))
        self.view = View(items, self._pipelines(items), self.queues.grown(items.topics))

    def _pipelines(self, items: Items) -> dict[Change, RecallPipeline]:
        return {change: RecallPipeline(*settings, items.data) for change, settings in self._combinations.items()}

    async def recommend(
        self,
        user_id: str,
        k: int,
        exclude: list[str],
        blocked_authors: Sequence[str] = (),
        context: dict[str, Any] | None = None,
        arm: str | None = None,
        change: Change = NOTHING,
        visit: Visit = NO_VISIT,
        formula: Formula | None = None,
    ) -> Page:
        """A page of k videos that the user has not seen for `recall.seen_days`. They are logged as delivered.

        If there are too few of these, the videos that the user has not seen for the longest time come behind them, marked as
        `AGAIN`. The page is shorter only if all videos that may be shown are on it.

        A store that can't write now does not stop pages: the page then says that it is not `logged`. Its impressions are stored as
        soon as the store can write, or else are lost and counted.

        `context` gives the ranker's context fields; fields that it lacks are unknown. It and `arm` are stored with the impressions.
        `change` says which arms of experiments make the page. A `formula` of the bundle's goals counts instead of theirs.
        Raises what the ranker raises, and `ScoreError` when its answer does not fit the candidates.
        """
        seed = int(self._rng.integers(2**31))
        page = await self.preview(user_id, k, exclude, blocked_authors, context, arm, seed, change, formula)
        page = replace(page, visit=visit)
        logged = await self._log(self._impressions(user_id, page))  # before the answer, so that no page repeats it
        page = replace(page, logged=logged)
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
        change: Change = NOTHING,
        formula: Formula | None = None,
    ) -> Page:
        """The page that `recommend` would answer with, without logging it. `draw_seed` decides what is drawn at random."""
        trace, now, view = Trace(), now_ms(), self.view
        items = view.items
        user = await self._hydrated(user_id, items)
        known_as = "" if user.forgotten else user_id
        trace.mark("hydrate", len(user.clicked))
        state, formula = replace(user, clicked=items.in_store(user.clicked), said=()), formula or self._formulas[change]
        valued: list[np.ndarray] = []  # what each call of `score` found of the goals

        async def score(candidates: np.ndarray) -> np.ndarray:
            values = await self.rank(known_as, state, now, items.in_store(candidates), context or {})
            valued.extend([values] if self.bundle.info.goals else ())
            return scored(values, self.bundle.info.goals, formula)

        hidden = np.append(user.seen, user.delivered)
        pipeline, exclusions = view.pipelines[change], _exclusions(items, hidden, exclude, blocked_authors, user.said)
        feedback = pipeline.feedback(user.said, now)
        query = Query(known_as, user.clicked, user.clicked_at, exclusions, draw_seed, feedback)
        found = await pipeline.run(query, view.queues, score, k, trace)
        page, said = found.candidates.take(found.rows), _as_json(context or {})
        draws = [replace(draw, rows=found.candidates.items[draw.rows]) for draw in found.draws] if pipeline.explores else None
        scores = found.scores[found.rows]
        facts = uuid.uuid4().hex, now, page.items, found.why, page.topics, scores, trace, arm, said, found.moved, feedback
        answer = Page(*facts, draws=draws, goals=valued[0][found.rows] if valued else None, formula=formula)
        if len(page) == k:
            return answer
        allowed = _exclusions(items, NO_ITEMS, exclude, blocked_authors, user.said).also(page.items)
        again = longest_unseen(hidden, allowed, view.queues.is_shown, k - len(page))
        if len(again):
            more = await score(again)
            if len(more) != len(again) or not np.isfinite(more).all():
                raise ScoreError("the ranker's answer does not fit the videos that come again")
            answer = with_seen(answer, again, more, valued[-1] if valued else None)
            trace.mark(AGAIN, len(again))
        return answer

    def similar(self, video_id: str, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The items (int32) most similar to a video, and their similarities (float32), the most similar first.

        Videos that may not be shown are left out. Raises `KeyError` for an unknown video.
        """
        view = self.view
        if not (item := view.items.find(video_id)):
            raise KeyError(video_id)
        found = view.items.similar(item)
        shown = view.queues.is_shown(found[0])
        items, similarity = found[0][shown], found[1][shown]
        rows = nearest(items, similarity, self.clicks, k)
        return items[rows], similarity[rows]

    async def attention(self, user_id: str, video_id: str) -> Attention | str:
        """Where a user looks at the cover of a video, or a sentence that says why that is not known.

        Raises `KeyError` for an unknown video, and what the ranker raises.
        """
        items = self.items
        if not (item := items.find(video_id)):
            raise KeyError(video_id)
        user = await self._hydrated(user_id, items)
        return await self.look("" if user.forgotten else user_id, int(items.in_store(np.array([item]))[0]))

    def user(self, user_id: str) -> UserState:
        """Merges the log and the store in the order of time. Unknown users are in neither, forgotten ones are not in the log."""
        return self._merged(user_id, self.items, self.store.activity(*self._asked(user_id)))

    async def _hydrated(self, user_id: str, items: Items) -> UserState:
        """What `user` returns, without a thread where the store need not wait."""
        asked = self._asked(user_id)
        at_once = self.store.activity_at_once(*asked)
        online = await asyncio.to_thread(self.store.activity, *asked) if at_once is None else at_once
        return self._merged(user_id, items, online)

    def _asked(self, user_id: str) -> tuple[str, Since, int, int, int]:
        now, seen_ms = now_ms(), int(self.settings.seen_days * DAY)
        return user_id, self._since, self.bundle.info.max_clicks, now - seen_ms, now - DELIVERED_MS

    def _merged(self, user_id: str, items: Items, online: Activity) -> UserState:
        find, bundle, max_clicks = items.find_all, self.bundle, self.bundle.info.max_clicks
        log = UNKNOWN_USER if online.forgotten else bundle.user(user_id)
        clicked = np.concatenate([log.clicked, find(online.clicked)])
        clicked_at = np.concatenate([log.clicked_at, np.array(online.clicked_at, dtype=np.int64)])
        order = np.argsort(clicked_at, kind="stable")  # an event may arrive so late that the log has later clicks
        order = order[clicked[order] > 0][-max_clicks:]
        seen, delivered = np.append(log.seen, items.seen_index.find(online.seen)), find(online.delivered)
        told = [Said(kind, item, at) for kind, video_id, at in online.feedback if (item := items.find(video_id))]
        said = standing(told, items.author_of) if told else ()
        return UserState(clicked[order], clicked_at[order], seen, online.forgotten, online.fields, delivered[delivered > 0], said)

    async def add_events(self, events: list[Event]) -> list[Event]:
        """Stores events. Returns those that were there already, after all others have been written to disk.

        Where views are reported, what else a user did with a video implies its view, which is stored, too. Raises `StoreError` if
        they were not written in time; they may be written later.
        """
        implied = dict.fromkeys(implied_views(events) if self.store.exposure == "view" else [])  # in order, and found fast
        known = await self._in_time(self.store.submit([*events, *implied]))
        return [event for event in known if event not in implied]

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

    def _impressions(self, user_id: str, page: Page) -> list[Event]:
        shown, draws = enumerate(self.items.ids(page.items)), self._draws(page)
        ours = uuid.uuid4().hex  # not the request's id, which callers know and may make ids of their own events from
        return [
            Event(
                f"{ours}-{position}",
                user_id,
                video_id,
                "impression",
                page.at,
                page.request_id,
                arm=page.arm,
                context=page.context,
                position=position,
                page_number=page.visit.page_number,
                session_id=page.visit.session_id,
                draw=draws[position],
            )
            for position, video_id in shown
        ]

    def _draws(self, page: Page) -> list[str | None]:
        """How each video of a page came to its place, as `Event.draw` says it."""
        propensities = page.propensities()
        if propensities is None:
            return [None] * len(page.items)
        among = {draw.position: self.items.ids(draw.rows) for draw in page.draws or ()}
        odds = [{"propensity": propensity} for propensity in propensities]
        return [_packed(each | ({"among": among[place]} if place in among else {})) for place, each in enumerate(odds)]


def _as_json(context: dict[str, Any]) -> str | None:
    """The fields that have a value; None if there are none."""
    known = {name: value for name, value in context.items() if value is not None}
    return _packed(known) if known else None


def _packed(facts: dict[str, Any]) -> str:
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _exclusions(items: Items, seen: np.ndarray, exclude: Sequence[str], blocked: Sequence[str], said: Sequence[Said]) -> Exclusions:
    authors = np.array([number for author in blocked if (number := items.authors.get(author))], dtype=np.int32)
    excluded = np.concatenate([seen, items.find_all(exclude)])
    if said:
        authors = np.append(authors, blocked_authors(said, items.author_of))
        excluded = np.append(excluded, unwanted(said))
    return Exclusions.of(excluded, authors, items.author_of)


def now_ms() -> int:
    """The present time in UTC milliseconds."""
    return time.time_ns() // 1_000_000
