"""The last step to a page: which of the scored candidates are on it, and in which order."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np

from rayrec.config import Selection
from rayrec.recall.exploration import ARMS, Draw
from rayrec.recall.queues import ItemTopics

# The probability with which each of these candidates (rows, int64 [A]) is drawn for a place: float64 [A], which adds up to 1.
Odds = Callable[[np.ndarray], np.ndarray]

SAMPLE = 20_000  # scores of which many more are first compared with a bound


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """The rows of the k highest scores, in descending order."""
    k = min(k, len(scores))
    if not k:
        return np.empty(0, dtype=np.int64)
    rows = _promising(scores, k)
    rows = rows[np.argpartition(-scores[rows], k - 1)[:k]]
    return rows[np.argsort(-scores[rows], kind="stable")]


def _promising(scores: np.ndarray, k: int) -> np.ndarray:
    """Rows with the k highest scores among them. Of a million, a bound from a sample leaves few in a twentieth of the time."""
    step = len(scores) // SAMPLE
    if step > 1:
        sample = scores[::step]
        place = max(0, len(sample) - 20 - 2 * k // step)
        above = np.flatnonzero(scores >= np.partition(sample, place)[place])
        if len(above) >= k:
            return above
    return np.arange(len(scores))


class Selected(NamedTuple):
    """The candidates of a page."""

    rows: np.ndarray  # int64 [k], in the order of the page
    draws: list[Draw]  # of the places that explored


@dataclass(frozen=True)
class Selector:
    """Fills a page by score, follows the rules of diversity, and reserves positions for fresh videos if it is told to explore."""

    settings: Selection
    item_topics: ItemTopics
    author_of: np.ndarray  # int32 [I], 0 for unknown

    def select(self, items: np.ndarray, scores: np.ndarray, fresh: np.ndarray, k: int, draw_seed: int, odds: Odds) -> Selected:
        """At most k candidates in the order of the page.

        `fresh` is a mask of the candidates. A page has `explore * k` positions for exploration, rounded up or down at random so
        that this is their mean; `draw_seed` decides this and what is drawn. They divide the page into equal parts and are the last
        position of each, as fresh items are in a queue. At most `ARMS` fresh candidates, chosen at random, compete for a position,
        and one of them is drawn by the `odds`. Other positions take what is left by score.
        """
        rules = self.settings
        if not rules.explore and rules.max_per_topic is None and rules.max_per_author is None:
            return Selected(best(scores, k), [])
        rng, k = np.random.default_rng(draw_seed), min(k, len(scores))
        positions = int(k * rules.explore + rng.random())
        page = _Page(rules, self._groups(items))
        draws = _drawn(page, rng.permutation(np.flatnonzero(fresh)), positions, odds, rng)
        explored = [int(draw.rows[draw.chosen]) for draw in draws]
        order = np.argsort(-scores, kind="stable")
        rest, skipped = page.take(order[~np.isin(order, explored)], k - len(explored))
        chosen = np.array([*rest, *skipped[: k - len(explored) - len(rest)]], dtype=np.int64)
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
        number = np.arange(len(explored))
        ends = (number + 1) * k // max(len(explored), 1)
        rows = np.insert(chosen, ends - 1 - number, explored)
        return Selected(rows, [replace(draw, position=int(end) - 1) for draw, end in zip(draws, ends, strict=True)])

    def _groups(self, items: np.ndarray) -> list[list[int]]:
        """The groups of each item that a rule limits: its topics, and its author as a negative number if the author is known."""
        groups: list[list[int]] = [[] for _ in items]
        if self.settings.max_per_topic is not None:
            for row, topic in zip(*(column.tolist() for column in self.item_topics.pairs(items)), strict=True):
                groups[row].append(topic)
        if self.settings.max_per_author is not None:
            for row, author in enumerate(self.author_of[items].tolist()):
                groups[row] += [-author] if author else []
        return groups


def _drawn(page: "_Page", fresh: np.ndarray, count: int, odds: Odds, rng: np.random.Generator) -> list[Draw]:
    """Draws from the fresh candidates (rows in random order) for `count` places, fewer when the rules allow no more."""
    draws: list[Draw] = []
    while len(draws) < count:
        rows = page.allowed(fresh, ARMS)
        if not len(rows):
            break
        chances = odds(rows)
        chosen = int(rng.choice(len(rows), p=chances))
        draws.append(Draw(0, rows, chances, chosen))
        page.take(rows[chosen : chosen + 1], 1)
        fresh = fresh[fresh != rows[chosen]]
    return draws


class _Page:
    """Counts the videos of each group on a page."""

    def __init__(self, rules: Selection, groups: list[list[int]]) -> None:
        self.rules, self.groups, self.counts = rules, groups, Counter[int]()

    def take(self, rows: np.ndarray, count: int) -> tuple[list[int], list[int]]:
        """The first `count` rows that the rules allow, and those that they skipped."""
        taken: list[int] = []
        skipped: list[int] = []
        for row in rows.tolist():
            if len(taken) == count:
                break
            if any(self._is_full(group) for group in self.groups[row]):
                skipped.append(row)
                continue
            taken.append(row)
            self.counts.update(self.groups[row])
        return taken, skipped

    def allowed(self, rows: np.ndarray, count: int) -> np.ndarray:
        """The first `count` rows that the rules allow."""
        found = (row for row in rows.tolist() if not any(self._is_full(group) for group in self.groups[row]))
        return np.array([*islice(found, count)], dtype=np.int64)

    def _is_full(self, group: int) -> bool:
        limit = self.rules.max_per_topic if group >= 0 else self.rules.max_per_author
        return limit is not None and self.counts[group] >= limit
