"""What a user said of videos (likes, skips, "not for me", "less of this", blocks), and how it changes the next page.

Each piece of feedback multiplies the scores of videos on the same topic, of the same author and with similar content, and its
effect halves with each half-life. It names a video, so that it holds whatever numbers a new bundle gives to topics and authors.
The ranker knows nothing of it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rayrec.config import Effect, FeedbackEffects
from rayrec.recall.queues import NO_ITEMS, ItemTopics

BLOCK, UNBLOCK, UNDO, NOT_INTERESTED = "block_author", "unblock_author", "undo", "not_interested"
DAY_MS = 86_400_000
MAX_NEAR = 32  # of each kind, so many of the latest videos are compared with the candidates
SCOPES = ("topic", "author", "near")  # what two videos may have in common
TOPIC, AUTHOR, NEAR = range(3)
_KINDS = {name for name, field in FeedbackEffects.model_fields.items() if isinstance(field.default, Effect)}
_CAN_STAND = (*_KINDS, BLOCK)
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
    kept: dict[tuple[str, int], Said] = {}
    blocks: dict[int, set[int]] = {}  # author -> items
    for each in said:
        if each.kind == UNDO:
            for kind in _CAN_STAND:
                kept.pop((kind, each.item), None)
        elif each.kind == UNBLOCK:
            for item in blocks.pop(int(author_of[each.item]), set()):
                kept.pop((BLOCK, item), None)
        else:
            kept.pop((each.kind, each.item), None)  # so that it comes last
            kept[each.kind, each.item] = each
            if each.kind == BLOCK:
                blocks.setdefault(int(author_of[each.item]), set()).add(each.item)
    return list(kept.values())


@dataclass(frozen=True)
class _Sums:
    """What time has left of all that was said of each topic, or author, by kind."""

    known: np.ndarray  # int32 [s], sorted: the topics or authors of which anything was said
    sums: np.ndarray  # float64 [K, s]

    @classmethod
    def of(cls, names: np.ndarray, kinds: np.ndarray, weights: np.ndarray, count: int) -> "_Sums":
        """From the topic or author, the kind (of so many) and the weight of each piece of feedback."""
        known, places = np.unique(names, return_inverse=True)
        sums = np.bincount(kinds * len(known) + places, weights, minlength=count * len(known))
        return cls(known, sums.reshape(count, len(known)))

    def found(self, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places of the names of which anything was said, and the sums of each of these: float64 [K, places]."""
        if not len(self.known):
            return NO_ITEMS, self.sums
        at = np.searchsorted(self.known, names)
        places = np.flatnonzero(self.known.take(at, mode="clip") == names)
        return places, self.sums[:, at[places]]


class Reason(NamedTuple):
    """What moved a video most."""

    kind: str
    scope: str  # topic, author or near
    factor: float  # by which all feedback multiplied the score


@dataclass(frozen=True)
class Feedback:
    """What a user said, in K kinds of feedback, ready for the items of one bundle. Logarithms are natural ones, of factors."""

    kinds: list[str]
    strengths: np.ndarray  # float64 [3, K], by `SCOPES`
    by_topic: _Sums
    by_author: _Sums
    near: np.ndarray  # int32 [m]: the latest items of each kind, with which candidates are compared
    near_weights: np.ndarray  # float32 [m, K]: what time has left of each, in the column of its kind
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
        names = sorted({each.kind for each in said} & _KINDS) if effects is not None else []
        if not names or effects is None:
            return None
        number, its = {kind: place for place, kind in enumerate(names)}, [getattr(effects, kind) for kind in names]
        heard = [each for each in said if each.kind in number]
        kinds, items = np.array([number[each.kind] for each in heard]), np.array([each.item for each in heard])
        half_lives = np.array([each.half_life_days for each in its])
        strengths = np.array([[getattr(each, scope) for each in its] for scope in SCOPES])
        age_days = np.maximum(now - np.array([each.at for each in heard]), 0) / DAY_MS
        weights = 0.5 ** (age_days / half_lives[kinds])
        starts, authors = topics.offsets[items], author_of[items]
        has, known = starts < topics.offsets[items + 1], authors > 0
        nearest = topics.topics[starts[has]]  # a video's topics begin with the nearest
        latest = [np.flatnonzero(kinds == kind)[-MAX_NEAR:] for kind in np.flatnonzero(strengths[NEAR])]
        near = np.concatenate([NO_ITEMS, *latest])
        near_weights = np.zeros((len(near), len(names)), np.float32)
        near_weights[np.arange(len(near)), kinds[near]] = weights[near]
        return cls(
            names,
            strengths,
            _Sums.of(nearest, kinds[has], weights[has], len(names)),
            _Sums.of(authors[known], kinds[known], weights[known], len(names)),
            items[near].astype(np.int32),
            near_weights,
            topics,
            author_of,
            vectors_of,
            effects.repeats,
            effects.near_from,
        )

    def applied(self, scores: np.ndarray, logarithms: np.ndarray) -> np.ndarray:
        """The scores after the feedback, float32 [n]. A score below 0 is divided, so that less is always less."""
        factors = np.exp(logarithms)
        return np.where(scores >= 0, scores * factors, scores / factors).astype(np.float32)

    def logarithms(self, items: np.ndarray) -> np.ndarray:
        """The logarithm of the factor of each item's score, float64 [n]."""
        logarithms: np.ndarray = self.strengths.ravel() @ self._amounts(items).reshape(self.strengths.size, len(items))
        return logarithms

    def reasons(self, items: np.ndarray, least: float = 0.05) -> list[Reason | None]:
        """What moved each item most; None for items whose logarithm is closer to 0 than `least`."""
        parts = (self.strengths[:, :, None] * self._amounts(items)).reshape(self.strengths.size, len(items))
        total = parts.sum(axis=0)
        strongest = (parts * np.sign(total)).round(6).argmax(axis=0)  # of equal ones, the first
        return [
            Reason(self.kinds[part % len(self.kinds)], SCOPES[part // len(self.kinds)], float(np.exp(logarithm)))
            if abs(logarithm) >= least
            else None
            for part, logarithm in zip(strongest.tolist(), total.tolist(), strict=True)
        ]

    def weighted(self, topics: np.ndarray, clicks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The topics of a user, sorted; their weights before what was said of them (float64), and after.

        Before it, a topic's weight is the number of clicks, and a liked video adds to its topic what time has left of the like.
        """
        liked = self.strengths[TOPIC] > 0
        known = np.union1d(topics, self.by_topic.known[self.by_topic.sums[liked].any(axis=0)]).astype(np.int32)
        before = np.zeros(len(known))
        before[np.searchsorted(known, topics)] = clicks
        places, sums = self.by_topic.found(known)
        logarithm = np.zeros(len(known))
        logarithm[places] = self.strengths[TOPIC] @ np.minimum(sums, self.repeats)
        before[places] += sums[liked].sum(axis=0)
        return known, before, before * np.exp(logarithm)

    def _amounts(self, items: np.ndarray) -> np.ndarray:
        """What was said of each item's topics and author, and of what is near it, by kind, at most `repeats`: float64 [3, K, n]."""
        found = np.zeros((len(SCOPES), len(self.kinds), len(items)))
        if self.strengths[TOPIC].any():
            rows, topics = self.topics.pairs(items)
            places, sums = self.by_topic.found(topics)
            for kind in np.flatnonzero(self.strengths[TOPIC]):
                np.maximum.at(found[TOPIC, kind], rows[places], sums[kind])  # of several topics, the one of which most was said
        if self.strengths[AUTHOR].any():
            places, sums = self.by_author.found(self.author_of[items])
            found[AUTHOR][:, places] = sums
        if len(self.near):
            nearness = np.maximum(self._similarity(items, self.near) - self.near_from, 0) / (1 - self.near_from)
            found[NEAR] = (nearness @ self.near_weights).T
        return np.minimum(found, self.repeats, out=found)

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
