"""What a user said of videos (likes, skips, "not for me", "less of this", blocks), and how it changes the next page.

Each piece of feedback multiplies the scores of videos on the same topic, of the same author and with similar content, and its
effect halves with each half-life. It names a video, so that it holds whatever numbers a new bundle gives to topics and authors.
The ranker knows nothing of it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rayrec.config import Effect, FeedbackEffects
from rayrec.recall.queues import NO_ITEMS, ItemTopics

BLOCK, UNBLOCK, UNDO, NOT_INTERESTED = "block_author", "unblock_author", "undo", "not_interested"
DAY_MS = 86_400_000
MAX_NEAR = 100  # of each kind, so many of the latest videos are compared with the candidates
VectorsOf = Callable[[np.ndarray], np.ndarray | None]  # the vectors of items, float32 [n, size]: of length 1, or zeros


class Said(NamedTuple):
    """One piece of feedback."""

    kind: str
    item: int  # never 0
    at: int  # UTC ms


def standing(said: Iterable[Said], author_of: np.ndarray) -> list[Said]:
    """What was not taken back of `said`, which is in the order of time. The same said of a video again counts once, the last time.

    `undo` takes back all that was said of its video before, and `unblock_author` every block of its author.
    """
    of_item: dict[int, dict[str, Said]] = {}
    blocks: dict[int, set[int]] = {}  # author -> items
    for each in said:
        author = int(author_of[each.item])
        if each.kind == UNDO:
            of_item.pop(each.item, None)
        elif each.kind == UNBLOCK:
            for item in blocks.pop(author, set()):
                of_item.get(item, {}).pop(BLOCK, None)
        else:
            of_item.setdefault(each.item, {})[each.kind] = each
            if each.kind == BLOCK:
                blocks.setdefault(author, set()).add(each.item)
    return sorted((each for kinds in of_item.values() for each in kinds.values()), key=lambda each: each.at)


@dataclass(frozen=True)
class _Spoken:
    """All feedback of one kind that has an effect."""

    kind: str
    effect: Effect
    items: np.ndarray  # int32 [m], oldest first
    weights: np.ndarray  # float64 [m]: what time has left of each, from 1 down to 0


class Reason(NamedTuple):
    """What moved a video most."""

    kind: str
    scope: str  # topic, author or near
    factor: float  # by which all feedback multiplied the score


@dataclass(frozen=True)
class Feedback:
    """What a user said, ready for the items of one bundle. Logarithms are natural ones, of factors of scores."""

    spoken: Sequence[_Spoken]
    topics: ItemTopics
    author_of: np.ndarray  # int32 [I], 0 for unknown
    vectors_of: VectorsOf
    repeats: float
    near_from: float

    @classmethod
    def of(
        cls,
        said: Sequence[Said],
        now: int,
        effects: FeedbackEffects | None,
        topics: ItemTopics,
        author_of: np.ndarray,
        vectors_of: VectorsOf = lambda items: None,
    ) -> "Feedback | None":
        """None if nothing that was said has an effect. `said` is what `standing` gives, `now` is in UTC ms.

        Without vectors, the cosine similarity of two videos is that of their sets of topics.
        """
        if effects is None:
            return None
        spoken = []
        for kind in sorted({each.kind for each in said} & set(type(effects).model_fields)):
            effect, its = getattr(effects, kind), [each for each in said if each.kind == kind]
            age_days = np.array([max(0, now - each.at) for each in its]) / DAY_MS
            items = np.array([each.item for each in its], np.int32)
            spoken.append(_Spoken(kind, effect, items, 0.5 ** (age_days / effect.half_life_days)))
        if not spoken:
            return None
        return cls(spoken, topics, author_of, vectors_of, effects.repeats, effects.near_from)

    def applied(self, scores: np.ndarray, logarithms: np.ndarray) -> np.ndarray:
        """The scores after the feedback, float32 [n]. A score below 0 is divided, so that less is always less."""
        factors = np.exp(logarithms)
        return np.where(scores >= 0, scores * factors, scores / factors).astype(np.float32)

    def logarithms(self, items: np.ndarray) -> np.ndarray:
        """The logarithm of the factor of each item's score, float64 [n]."""
        return sum((values for _, _, values in self._parts(items)), np.zeros(len(items)))

    def reasons(self, items: np.ndarray, least: float = 0.05) -> list[Reason | None]:
        """What moved each item most; None for items whose logarithm is closer to 0 than `least`."""
        parts = list(self._parts(items))
        total = sum((values for _, _, values in parts), np.zeros(len(items)))
        found: list[Reason | None] = []
        for row, logarithm in enumerate(total.tolist()):
            towards = 1 if logarithm > 0 else -1
            kind, scope, _ = max(parts, key=lambda part: part[2][row] * towards)
            found.append(Reason(kind, scope, float(np.exp(logarithm))) if abs(logarithm) >= least else None)
        return found

    def weighted(self, topics: np.ndarray, clicks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The topics of a user, sorted; their weights before what was said of them (float64), and after.

        Before it, a topic's weight is the number of clicks, and a liked video adds to its topic what time has left of the like.
        """
        liked = [each for each in self.spoken if each.effect.topic > 0]
        rows = [self._first_topics(each) for each in liked]
        names = np.concatenate([topics, *(first for first, _ in rows)]).astype(np.int32)
        values = np.concatenate([clicks.astype(float), *(weights for _, weights in rows)])
        known, place = np.unique(names, return_inverse=True)
        before = np.bincount(place, values, minlength=len(known))
        logarithm = np.zeros(len(known))
        for each in self.spoken:
            logarithm += self._effect(each.effect.topic, _looked_up(*self._first_topics(each), known))
        return known, before, before * np.exp(logarithm)

    def _parts(self, items: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
        """The logarithms [n] by kind and scope, without those that are 0 by the config."""
        rows, topics = self.topics.pairs(items)
        for each in self.spoken:
            if each.effect.topic:
                sums = np.zeros(len(items))
                np.maximum.at(sums, rows, _looked_up(*self._first_topics(each), topics))
                yield each.kind, "topic", self._effect(each.effect.topic, sums)
            if each.effect.author:
                authors = self.author_of[each.items]
                sums = _looked_up(authors[authors > 0], each.weights[authors > 0], self.author_of[items])
                yield each.kind, "author", self._effect(each.effect.author, sums)
            if each.effect.near:
                nearness = (self._similarity(items, each.items[-MAX_NEAR:]) - self.near_from) / (1 - self.near_from)
                yield each.kind, "near", self._effect(each.effect.near, nearness.clip(0, 1) @ each.weights[-MAX_NEAR:])

    def _effect(self, strength: float, sums: np.ndarray) -> np.ndarray:
        return strength * np.minimum(sums, self.repeats)

    def _first_topics(self, each: _Spoken) -> tuple[np.ndarray, np.ndarray]:
        """The topic of each video that has one, and its weight. A video's topics begin with the nearest."""
        starts = self.topics.offsets[each.items]
        has = starts < self.topics.offsets[each.items + 1]
        return self.topics.topics[starts[has]], each.weights[has]

    def _similarity(self, items: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Cosines, [n, m]."""
        vectors = self.vectors_of(np.append(items, others))
        if vectors is not None:
            return vectors[: len(items)] @ vectors[len(items) :].T
        rows, topics = self.topics.pairs(items)
        columns, its = self.topics.pairs(others)
        sizes = self.topics.offsets[1:] - self.topics.offsets[:-1]
        shared = np.zeros((len(items), len(others)))
        for column in range(len(others)):
            np.add.at(shared[:, column], rows, np.isin(topics, its[columns == column]))
        return shared / np.sqrt(np.maximum(np.outer(sizes[items], sizes[others]), 1))


def blocked_authors(said: Sequence[Said], author_of: np.ndarray) -> np.ndarray:
    """The authors that a user does not want to see, int32."""
    authors = author_of[[each.item for each in said if each.kind == BLOCK]]
    return np.unique(authors[authors > 0]).astype(np.int32)


def unwanted(said: Sequence[Said]) -> np.ndarray:
    """The items that are not for the user, int32."""
    return np.array([each.item for each in said if each.kind == NOT_INTERESTED], np.int32) if said else NO_ITEMS


def _looked_up(keys: np.ndarray, weights: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The sum of the weights of each wanted key, float64; 0 for those that are not among the keys."""
    if not len(keys):
        return np.zeros(len(wanted))
    known, place = np.unique(keys, return_inverse=True)
    sums = np.bincount(place, weights)
    found = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return np.where(known[found] == wanted, sums[found], 0.0)
