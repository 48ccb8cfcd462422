"""One queue of videos for each topic, ordered by click-through rate (SOURCES C.4), kept up to date by what changed.

Items are the ranker's item indices (0 = no item), so that nothing is translated between recall and ranking. `TopicQueues` is a
snapshot that requests may read while the next one is made. `updated` makes the next one: it sorts the queues that the changed items
stand in and shares all others, so that it costs what the new events touched and not what the catalog holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from rayrec.config import Recall

# Videos of the ordered head of `popular`, more than one user has seen; behind it the others come in no order. Withdrawals make it
# shorter; the others move up when they are shown next.
MAX_POPULAR = 5_000
# The kinds of items. A weak one has been shown often enough, is below `min_ctr`, and so is in no topic's queue.
HIDDEN, FRESH, ESTABLISHED, WEAK = range(4)
NONE = np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class ItemTopics:
    """The topics of each item, as CSR: `topics[offsets[i] : offsets[i + 1]]` are those of item i."""

    offsets: np.ndarray  # int64 [I + 1], I counts item 0 too
    topics: np.ndarray  # int32

    @classmethod
    def of(cls, item_ids: list[str], topics: pa.Table | None) -> "ItemTopics":
        """From the `topics` table, for items in the order of `item_ids`; videos that it lacks have none."""
        if topics is None or not topics.num_rows:
            return cls(np.zeros(len(item_ids) + 1, dtype=np.int64), NONE)
        rows = pa.compute.index_in(pa.array(item_ids, pa.string()), value_set=topics["video_id"].combine_chunks())
        return cls.of_lists(topics["topics"].combine_chunks().take(rows))

    @classmethod
    def of_lists(cls, lists: pa.ListArray) -> "ItemTopics":
        """From a list of topics (or null) for each item, item 0 included."""
        lengths = pa.compute.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(offsets, lists.flatten().to_numpy(zero_copy_only=False).astype(np.int32))

    def of_items(self, items: np.ndarray) -> np.ndarray:
        """The topics of all the items, one after the other."""
        return self.pairs(items)[1]

    def pairs(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every pair of an item and one of its topics, as (place in `items`, topic)."""
        starts, lengths = self.offsets[items], self.offsets[items + 1] - self.offsets[items]
        places = np.repeat(np.arange(len(items)), lengths)
        within = np.arange(len(places)) - (np.cumsum(lengths) - lengths)[places]
        return places, self.topics[starts[places] + within]

    def holders(self, topics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items that have any of these topics, and how many of them each has. Looks at the whole catalog."""
        found = np.searchsorted(self.offsets, np.flatnonzero(np.isin(self.topics, topics)), side="right") - 1
        return np.unique(found, return_counts=True)


@dataclass(frozen=True)
class TopicQueues:
    """A topic's queue is made of two lists: established items, best CTR first, and fresh ones in an order of chance.

    A fresh item has fewer than `min_exposures`; fresh items make up `fresh_share` of a queue (all of it where a topic has nothing
    else) and stand evenly between the established ones. An established item stays while its CTR is at least `min_ctr`.
    """

    item_topics: ItemTopics
    settings: Recall
    kind: np.ndarray  # int8 [I]
    ctr: np.ndarray  # float32 [I]; above 1 where clicks came without an impression
    established: list[np.ndarray]  # int32, by topic
    newcomers: list[np.ndarray]  # int32, by topic: the fresh ones
    popular: np.ndarray  # int32, over all topics: most clicks first, weak ones too, MAX_POPULAR at the most
    spread: np.ndarray  # int32, `popular` with the topics taking turns
    fresh: np.ndarray  # int32, over all topics, which take turns

    @classmethod
    def build(
        cls,
        item_topics: ItemTopics,
        exposures: np.ndarray,
        clicks: np.ndarray,
        available: np.ndarray,
        settings: Recall,
        rng: np.random.Generator,
    ) -> "TopicQueues":
        """From each item's counters and whether it may be shown at all (arrays over items, item 0 included)."""
        lists = [NONE] * (int(item_topics.topics.max(initial=-1)) + 1)
        kind, ctr = np.zeros(len(available), np.int8), np.zeros(len(available), np.float32)
        nothing = cls(item_topics, settings, kind, ctr, lists, lists, NONE, NONE, NONE)
        queues = nothing.updated(rng.permutation(np.arange(1, len(available), dtype=np.int32)), exposures, clicks, available)
        return replace(queues, fresh=in_turns(queues.fresh, item_topics))

    def updated(self, changed: np.ndarray, exposures: np.ndarray, clicks: np.ndarray, available: np.ndarray) -> "TopicQueues":
        """The queues after these distinct items (never 0) have changed; the arrays are over all items and as they are now."""
        before, after = self.kind[changed], _kinds(exposures[changed], clicks[changed], available[changed], self.settings)
        kind, ctr = self.kind.copy(), self.ctr.copy()
        kind[changed], ctr[changed] = after, clicks[changed] / np.maximum(exposures[changed], 1)
        queued = (before == ESTABLISHED) | (after == ESTABLISHED)
        turned = (before == FRESH) != (after == FRESH)
        known = (before >= ESTABLISHED) | (after >= ESTABLISHED)
        popular, fresh, spread = self.popular, self.fresh, self.spread
        if known.any():
            popular = np.append(_without(popular, changed, len(kind)), changed[after >= ESTABLISHED])
            popular = popular[np.lexsort((popular, -clicks[popular]))][:MAX_POPULAR]
            spread = in_turns(popular, self.item_topics)
        if turned.any():
            fresh = np.append(_without(fresh, changed[turned], len(kind)), changed[turned & (after == FRESH)])
        return replace(
            self,
            kind=kind,
            ctr=ctr,
            established=self._relisted(self.established, changed[queued], after[queued] == ESTABLISHED, ctr),
            newcomers=self._relisted(self.newcomers, changed[turned], after[turned] == FRESH),
            popular=popular,
            spread=spread,
            fresh=fresh,
        )

    def queue(self, topic: int, count: int | None = None, draw_seed: int = 0) -> np.ndarray:
        """The first `count` items (None: all) of a topic's queue by rank; empty for a topic without one.

        The fresh ones are taken from the place `draw_seed` of their list on, round and round: another number, other fresh items.
        """
        if not 0 <= topic < len(self.established):
            return NONE
        established, fresh, share = self.established[topic], self.newcomers[topic], self.settings.fresh_share
        drawn = self.length(topic) - len(established)
        if count is not None and count < len(established) + drawn:
            drawn = min(drawn, max(int(count * share + 1e-9), count - len(established)))
            established = established[: count - drawn]
        if not drawn:
            return established
        number = np.arange(drawn)
        # The n-th fresh item has place n / share, as far as there are established ones to fill the places before it.
        ahead = np.ceil((number + 1) * (1 - share) / max(share, 1e-9) - 1e-9).clip(max=len(established)).astype(np.int64)
        queue = np.empty(len(established) + drawn, dtype=np.int32)
        is_fresh = np.zeros(len(queue), dtype=bool)
        is_fresh[ahead + number] = True
        queue[is_fresh] = fresh[(draw_seed + number) % len(fresh)]
        queue[~is_fresh] = established
        return queue

    def length(self, topic: int) -> int:
        """How many items the whole queue of a topic holds."""
        if not 0 <= topic < len(self.established):
            return 0
        established, fresh, share = len(self.established[topic]), len(self.newcomers[topic]), self.settings.fresh_share
        room = int(np.ceil(established * share / max(1 - share, 1e-9))) if established else fresh
        return established + min(fresh, room)

    def is_shown(self, items: np.ndarray) -> np.ndarray:
        """Which of the items may be shown at all."""
        return self.kind[items] != HIDDEN

    def is_fresh(self, items: np.ndarray) -> np.ndarray:
        return self.kind[items] == FRESH

    def popular_first(self, spread: bool) -> Iterator[np.ndarray]:
        """All items that are not fresh, in parts: the popular ones, over which topics take turns if `spread`, then all others.

        The second part looks at the whole catalog; it is made when it is asked for.
        """
        yield self.spread if spread else self.popular
        others = self.kind >= ESTABLISHED
        others[self.popular] = False
        yield np.flatnonzero(others).astype(np.int32)

    def fresh_from(self, draw_seed: int) -> Iterator[np.ndarray]:
        """All fresh items, in parts, from the place `draw_seed` of their list on and round."""
        start = draw_seed % max(len(self.fresh), 1)
        yield self.fresh[start:]
        yield self.fresh[:start]

    def _relisted(
        self, lists: list[np.ndarray], changed: np.ndarray, belong: np.ndarray, ctr: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """The lists with each changed item in those of its topics if it belongs there (a mask), else in none.

        They are ordered by `ctr`, the best first; without it, what comes stands behind what was there.
        """
        place, topic = self.item_topics.pairs(changed)
        touched = np.unique(topic)
        old = [lists[number] for number in touched.tolist()]
        kept, comes = np.concatenate([NONE, *old]), belong[place]
        stays = _outside(kept, changed, len(self.kind))
        items = np.concatenate([kept[stays], changed[place[comes]]])
        topics = np.concatenate([np.repeat(touched, [len(part) for part in old])[stays], topic[comes]])
        # One number orders by topic and inside a topic by CTR, whatever the CTR. Most of the items stand in order already, which
        # the stable sort makes use of.
        order = np.argsort(topics if ctr is None else topics + 0.5 / (1.0 + ctr[items].astype(np.float64)), kind="stable")
        items, ends = items[order], np.cumsum(np.bincount(np.searchsorted(touched, topics), minlength=len(touched))).tolist()
        new = list(lists)
        for number, start, end in zip(touched.tolist(), [0, *ends], ends, strict=False):
            new[number] = items[start:end].copy()  # a view would keep the lists of all the others alive
        return new


def in_turns(items: np.ndarray, item_topics: ItemTopics) -> np.ndarray:
    """The items reordered so that topics take turns: first the first of each topic, then the second of each, and so on.

    An item of several topics waits for the turn of the one that has had most. Those without a topic are one more topic.
    """
    place, topic = item_topics.pairs(items)
    bare = np.flatnonzero(item_topics.offsets[items] == item_topics.offsets[items + 1])
    place, topic = np.append(place, bare), np.append(topic, np.full(len(bare), -1))
    order = np.argsort(topic, kind="stable")
    turn = np.zeros(len(items), dtype=np.int64)
    np.maximum.at(turn, place[order], np.arange(len(order)) - np.searchsorted(topic[order], topic[order]))
    return items[np.argsort(turn, kind="stable")]


def _kinds(exposures: np.ndarray, clicks: np.ndarray, available: np.ndarray, settings: Recall) -> np.ndarray:
    strong = clicks >= settings.min_ctr * np.maximum(exposures, 1)
    shown = np.where(exposures < settings.min_exposures, FRESH, np.where(strong, ESTABLISHED, WEAK))
    return np.where(available, shown, HIDDEN).astype(np.int8)


def _outside(items: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """Which of the items are not among the others; all are below `count`. Costs what the two hold: untouched zeros are free."""
    among = np.zeros(count, dtype=bool)
    among[others] = True
    return ~among[items]


def _without(items: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    return items[_outside(items, others, count)]
