"""The way from a user to a page: sources -> filter -> backfill -> score -> select.

Serving takes it for each request, a new bundle is tried out with it, and the offline evaluation measures it, so that all of them
show the same videos. No step looks at more of the catalog than it needs, and none has a random state: `Query.draw_seed` says what
is drawn.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rayrec.config import Recall, Selection
from rayrec.errors import RayrecError
from rayrec.recall import sources
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.exploration import Draw
from rayrec.recall.feedback import Feedback, Said
from rayrec.recall.items import ItemData
from rayrec.recall.queues import TopicQueues, mixed
from rayrec.recall.selection import Odds, Selector
from rayrec.recall.source import NO_TOPIC, Candidates, Query
from rayrec.recall.sources.fresh import Fresh, fresh_items
from rayrec.recall.sources.popular import Popular, popular_items

UNWANTED = -0.5  # videos whose scores the user's feedback lowers by more than this logarithm are not explored
# Asks the ranker for the click probabilities (float32 [n]) of candidates (int32 [n], never empty).
Score = Callable[[np.ndarray], Awaitable[np.ndarray]]


class ScoreError(RayrecError):
    """The ranker's answer is not one finite number for each candidate."""


@dataclass(frozen=True)
class Step:
    """How long a step took and how many things it left: clicks, then candidates, then videos."""

    name: str
    milliseconds: float
    count: int


@dataclass
class Trace:
    """The steps of one request, timed one after the other."""

    steps: list[Step] = field(default_factory=list)
    _last: float = field(default_factory=time.perf_counter)

    def mark(self, name: str, count: int) -> None:
        """The step `name` ends now; it began where the one before it ended."""
        now = time.perf_counter()
        self.steps.append(Step(name, (now - self._last) * 1000, count))
        self._last = now


@dataclass(frozen=True)
class ScoredCandidates:
    """All candidates of a request, and which of them are on the page."""

    candidates: Candidates
    scores: np.ndarray  # float32 [n]
    rows: np.ndarray  # int64 [k]: rows of the candidates in the order of the page
    why: np.ndarray  # str [k]: the label of the source that brought each item of the page
    draws: list[Draw]  # of the places that explored
    moved: np.ndarray | None = None  # float64 [n]: the logarithms of the factors that the user's feedback put on the scores, if any

    @property
    def page(self) -> np.ndarray:
        """The items of the page, int32 [k]."""
        return self.candidates.items[self.rows]


class RecallPipeline:
    """The sources and the rules of selection of a config, over the items of a bundle. Raises `ConfigError` for unknown sources."""

    def __init__(self, settings: Recall, selection: Selection, items: ItemData) -> None:
        self.settings = settings
        self.sources = sources.build(settings, items)
        self.labels = np.array([*(source.label for source, _ in self.sources), Popular.label, Fresh.label])
        self.selector = Selector(selection, items.topics, items.author_of)
        self.explores = selection.explore > 0
        self.items = items

    def feedback(self, said: Sequence[Said], now: int) -> Feedback | None:
        """What a user said of videos, at a time in UTC ms, for a `Query`. None if nothing of it has an effect."""
        if not said:
            return None
        return Feedback.of(said, now, self.settings.feedback, self.items.topics, self.items.author_of, self.items.vectors_of)

    async def run(self, query: Query, queues: TopicQueues, score: Score, k: int, trace: Trace) -> ScoredCandidates:
        """Makes a page of at most `k` items, fewer only when no more items may be shown.

        Raises `ScoreError` when the scores do not fit the candidates, and whatever `score` raises.
        """
        candidates = self.candidates(query, queues, max(k, self.settings.candidates), trace)
        scores = await score(candidates.items) if len(candidates) else np.empty(0, np.float32)
        trace.mark("score", len(candidates))
        return self.selected(query, queues, candidates, scores, k, trace)

    def selected(
        self,
        query: Query,
        queues: TopicQueues,
        candidates: Candidates,
        scores: np.ndarray,
        k: int,
        trace: Trace,
        odds: Odds | None = None,
    ) -> ScoredCandidates:
        """The step behind the ranker, in which the user's feedback changes the order, but not the scores.

        What the user wants less of is not explored either. `odds` are those at the places that explore, if not the odds of Thompson
        sampling. Raises `ScoreError` when the scores do not fit the candidates.
        """
        if len(scores) != len(candidates) or not np.isfinite(scores).all():
            raise ScoreError("the ranker's answer does not fit the candidates")
        items, odds = candidates.items, odds or (lambda rows: queues.odds(candidates.items[rows]))
        wanted, fresh, moved = scores, queues.is_fresh(items), None
        if query.feedback is not None:
            moved = query.feedback.logarithms(items)
            wanted, fresh = query.feedback.applied(scores, moved), fresh & (moved > UNWANTED)
        rows, draws = self.selector.select(items, wanted, fresh, k, query.draw_seed, odds)
        trace.mark("select", len(rows))
        return ScoredCandidates(candidates, scores, rows, self.labels[candidates.sources[rows]], draws, moved)

    def candidates(self, query: Query, queues: TopicQueues, count: int, trace: Trace) -> Candidates:
        """The steps before the ranker: `count` distinct candidates, none of them excluded, fewer when the catalog has no more."""
        found = Candidates.joined([source.candidates(query, queues, share) for source, share in self.sources])
        trace.mark("source", len(found))
        found = filtered(found, query.exclusions)
        trace.mark("filter", len(found))
        found = self._backfilled(found, query, queues, count)
        trace.mark("backfill", len(found))
        return found

    def _backfilled(self, candidates: Candidates, query: Query, queues: TopicQueues, wanted: int) -> Candidates:
        """Filled up to `wanted` with fresh and popular items that are not excluded, `fresh_share` of them fresh while both last.

        The popular ones are spread over the topics when there are no candidates yet. Those that too few users clicked come last.
        """
        missing = wanted - len(candidates)
        if missing <= 0:
            return candidates
        exclusions = query.exclusions.also(candidates.items)
        fresh = fresh_items(queues, exclusions, round(missing * self.settings.fresh_share), query.draw_seed)
        popular = popular_items(queues, exclusions, missing - len(fresh), interleaved=not len(candidates))
        if more := missing - len(fresh) - len(popular):
            fresh = np.append(fresh, fresh_items(queues, exclusions.also(fresh), more, query.draw_seed))
        weak = queues.is_weak(popular)
        items = np.append(mixed(popular[~weak], fresh, self.settings.fresh_share), popular[weak])
        numbers = len(self.sources) + queues.is_fresh(items)  # popular and fresh have the last two labels
        return Candidates(
            np.concatenate([candidates.items, items]),
            np.concatenate([candidates.topics, np.full(len(items), NO_TOPIC, np.int32)]),
            np.concatenate([candidates.sources, numbers.astype(np.int8)]),
        )


def filtered(candidates: Candidates, exclusions: Exclusions) -> Candidates:
    """Without the excluded items, and each item only where it comes first."""
    allowed = np.flatnonzero(exclusions.allow(candidates.items))
    first = np.unique(candidates.items[allowed], return_index=True)[1]
    return candidates.take(allowed[np.sort(first)])
