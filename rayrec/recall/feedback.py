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
MAX_NEAR = 32  # of each kind, so many of the latest videos are compared with the candidates
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
    by_topic: tuple[np.ndarray, np.ndarray]  # topics, sorted, and the sum of the weights of each
    by_author: tuple[np.ndarray, np.ndarray]  # likewise


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
            weights = 0.5 ** (age_days / effect.half_life_days)
            starts, authors = topics.offsets[items], author_of[items]
            has = starts < topics.offsets[items + 1]
            by_topic = _summed(topics.topics[starts[has]], weights[has])  # a video's topics begin with the nearest
            spoken.append(_Spoken(kind, effect, items, weights, by_topic, _summed(authors[authors > 0], weights[authors > 0])))
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
            if abs(logarithm) < least:
                found.append(None)
                continue
            towards = 1 if logarithm > 0 else -1
            kind, scope, _ = max(parts, key=lambda part: part[2][row] * towards)
            found.append(Reason(kind, scope, float(np.exp(logarithm))))
        return found

    def weighted(self, topics: np.ndarray, clicks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The topics of a user, sorted; their weights before what was said of them (float64), and after.

        Before it, a topic's weight is the number of clicks, and a liked video adds to its topic what time has left of the like.
        """
        liked = [each for each in self.spoken if each.effect.topic > 0]
        names = np.concatenate([topics, *(each.by_topic[0] for each in liked)]).astype(np.int32)
        known, before = _summed(names, np.concatenate([clicks.astype(float), *(each.by_topic[1] for each in liked)]))
        logarithm = sum(
            (self._effect(each.effect.topic, _found(each.by_topic, known)) for each in self.spoken), np.zeros(len(known))
        )
        return known, before, before * np.exp(logarithm)

    def _parts(self, items: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
        """The logarithms [n] by kind and scope, without those that are 0 by the config."""
        rows, topics = self.topics.pairs(items)
        authors = self.author_of[items]
        for each in self.spoken:
            if each.effect.topic:
                sums = np.zeros(len(items))
                np.maximum.at(sums, rows, _found(each.by_topic, topics))
                yield each.kind, "topic", self._effect(each.effect.topic, sums)
            if each.effect.author:
                yield each.kind, "author", self._effect(each.effect.author, _found(each.by_author, authors))
        near = [each for each in self.spoken if each.effect.near]
        if near:  # all kinds in one product
            similarity = self._similarity(items, np.concatenate([each.items[-MAX_NEAR:] for each in near]))
            nearness = ((similarity - self.near_from) / (1 - self.near_from)).clip(0, 1)
            start = 0
            for each in near:
                weights = each.weights[-MAX_NEAR:].astype(np.float32)
                yield each.kind, "near", self._effect(each.effect.near, nearness[:, start : start + len(weights)] @ weights)
                start += len(weights)

    def _effect(self, strength: float, sums: np.ndarray) -> np.ndarray:
        return strength * np.minimum(sums, self.repeats)

    def _similarity(self, items: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Cosines, [n, m]."""
        vectors = self.vectors_of(np.append(items, others))
        if vectors is not None:
            return vectors[: len(items)] @ vectors[len(items) :].T
        topics = np.unique(self.topics.of_items(others))
        return self._of_topics(items, topics) @ self._of_topics(others, topics).T

    def _of_topics(self, items: np.ndarray, topics: np.ndarray) -> np.ndarray:
        """Which of some sorted topics each item has, float32 [n, topics], divided by the root of the number of all that it has."""
        rows, its = self.topics.pairs(items)
        sizes = self.topics.offsets[items + 1] - self.topics.offsets[items]
        has = np.isin(its, topics)
        found = np.zeros((len(items), len(topics)), np.float32)
        found[rows[has], np.searchsorted(topics, its[has])] = 1
        return found / np.sqrt(np.maximum(sizes, 1), dtype=np.float32)[:, None]


def blocked_authors(said: Sequence[Said], author_of: np.ndarray) -> np.ndarray:
    """The authors that a user does not want to see, int32."""
    authors = author_of[[each.item for each in said if each.kind == BLOCK]]
    return np.unique(authors[authors > 0]).astype(np.int32)


def unwanted(said: Sequence[Said]) -> np.ndarray:
    """The items that are not for the user, int32."""
    return np.array([each.item for each in said if each.kind == NOT_INTERESTED], np.int32) if said else NO_ITEMS


def _summed(keys: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct keys, sorted, and the sum of the weights of each."""
    known, place = np.unique(keys, return_inverse=True)
    return known, np.bincount(place, weights, minlength=len(known))


def _found(summed: tuple[np.ndarray, np.ndarray], wanted: np.ndarray) -> np.ndarray:
    """The sum of each wanted key, float64; 0 for those that have none."""
    known, sums = summed
    if not len(known):
        return np.zeros(len(wanted))
    places = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return np.where(known[places] == wanted, sums[places], 0.0)
