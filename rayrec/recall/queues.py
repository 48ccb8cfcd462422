"""One queue of videos for each topic, ordered by click-through rate and then by clicks, and the updates that keep the queues fresh.

The queues follow Pu et al., "Multimodal Topic Learning for Video Recommendation". Items are the ranker's item indices (0 = no
item), so that nothing is translated between recall and ranking. `TopicQueues` is a snapshot, which requests may read while the next
one is made. `updated` makes the next one: it sorts only the queues of the changed items and shares all others, so that its cost
depends on the number of changes and not on the size of the catalog.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa

from rayrec.config import Recall
from rayrec.recall import exploration
from rayrec.tables import TEXT

# The length of the ordered list `popular`. It is longer than what one user may have seen; the items behind it are in no order.
# Withdrawals make the list shorter; other items move up the next time that they are shown.
MAX_POPULAR = 5_000
# The kinds of items. A weak item has been shown often enough but is below `min_ctr`, so it is in no topic's queue.
HIDDEN, FRESH, ESTABLISHED, WEAK = range(4)
NO_ITEMS = np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class ItemTopics:
    """The topics of each item, as CSR: `topics[offsets[i] : offsets[i + 1]]` are those of item i."""

    offsets: np.ndarray  # int64 [I + 1], I counts item 0 too
    topics: np.ndarray  # int32

    @classmethod
    def of(cls, item_ids: list[str], topics: pa.Table | None) -> "ItemTopics":
        """From the `topics` table, for items in the order of `item_ids`; videos that are not in the table have no topics."""
        if topics is None or not topics.num_rows:
            return cls(np.zeros(len(item_ids) + 1, dtype=np.int64), NO_ITEMS)
        rows = pa.compute.index_in(pa.array(item_ids, TEXT), value_set=topics["video_id"].combine_chunks())
        return cls.of_lists(topics["topics"].combine_chunks().take(rows))

    @classmethod
    def of_lists(cls, lists: pa.ListArray) -> "ItemTopics":
        """From one list of topics (or null) for each item, including item 0."""
        lengths = pa.compute.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(offsets, lists.flatten().to_numpy(zero_copy_only=False).astype(np.int32))

    def of_items(self, items: np.ndarray) -> np.ndarray:
        """The topics of all these items, concatenated: int32."""
        return self.pairs(items)[1]

    def pairs(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every pair of an item and one of its topics, as two arrays: the item's row in `items`, and the topic."""
        starts, lengths = self.offsets[items], self.offsets[items + 1] - self.offsets[items]
        rows = np.repeat(np.arange(len(items)), lengths)
        within = np.arange(len(rows)) - (np.cumsum(lengths) - lengths)[rows]
        return rows, self.topics[starts[rows] + within]

    def grown(self, topics: list[np.ndarray]) -> "ItemTopics":
        """With more items behind these; `topics` are those of each, int32."""
        ends = self.offsets[-1] + np.cumsum([len(each) for each in topics], dtype=np.int64)
        return ItemTopics(np.concatenate([self.offsets, ends]), np.concatenate([self.topics, *topics]).astype(np.int32))

    def items_with_any(self, topics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items that have any of these topics, and how many of them each item has. It reads the whole catalog."""
        found = np.searchsorted(self.offsets, np.flatnonzero(np.isin(self.topics, topics)), side="right") - 1
        return np.unique(found, return_counts=True)


@dataclass(frozen=True)
class TopicQueues:
    """A topic's queue is made of two lists: established items, best CTR first, and fresh items in random order.

    Among items of the same CTR, the one with more clicks comes first: in a log of clicks alone, all CTRs are 1.

    An item is fresh while it has fewer than `min_exposures`. Fresh items make up `fresh_share` of a queue (all of it when the topic
    has no others) and are spread evenly between the established items. An established item stays in the queue while its CTR is at
    least `min_ctr`.
    """

    item_topics: ItemTopics
    settings: Recall
    kind: np.ndarray  # int8 [I]
    ctr: np.ndarray  # float32 [I]; above 1 where clicks came without an impression
    established_by_topic: list[np.ndarray]  # int32
    fresh_by_topic: list[np.ndarray]  # int32
    popular: np.ndarray  # int32, of all topics, weak ones too: most clicks first, at most MAX_POPULAR
    popular_interleaved: np.ndarray  # int32, `popular` with the topics taking turns
    fresh: np.ndarray  # int32, of all topics, which took turns when the queues were built
    exposures: np.ndarray  # int64 [I], and `clicks` likewise: the arrays that `updated` was given, not copies of them
    clicks: np.ndarray

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
        """From each item's counters and whether it may be shown at all (arrays [I], which include item 0)."""
        lists = [NO_ITEMS] * (int(item_topics.topics.max(initial=-1)) + 1)
        kind, ctr = np.zeros(len(available), np.int8), np.zeros(len(available), np.float32)
        nothing = cls(item_topics, settings, kind, ctr, lists, lists, NO_ITEMS, NO_ITEMS, NO_ITEMS, exposures, clicks)
        queues = nothing.updated(rng.permutation(np.arange(1, len(available), dtype=np.int32)), exposures, clicks, available)
        return replace(queues, fresh=interleaved_by_topic(queues.fresh, item_topics))

    def updated(self, changed: np.ndarray, exposures: np.ndarray, clicks: np.ndarray, available: np.ndarray) -> "TopicQueues":
        """The queues after these distinct items (never 0) have changed. The arrays [I] hold the present values of all items."""
        before, after = self.kind[changed], _kinds(exposures[changed], clicks[changed], available[changed], self.settings)
        kind, ctr = self.kind.copy(), self.ctr.copy()
        kind[changed], ctr[changed] = after, clicks[changed] / np.maximum(exposures[changed], 1)
        in_queues = (before == ESTABLISHED) | (after == ESTABLISHED)
        turned_fresh_or_not = (before == FRESH) != (after == FRESH)
        popular, popular_interleaved, fresh = self.popular, self.popular_interleaved, self.fresh
        if ((before >= ESTABLISHED) | (after >= ESTABLISHED)).any():
            popular = np.append(_without(popular, changed, len(kind)), changed[after >= ESTABLISHED])
            popular = popular[np.lexsort((popular, -clicks[popular]))][:MAX_POPULAR]
            popular_interleaved = interleaved_by_topic(popular, self.item_topics)
        turned = changed[turned_fresh_or_not]
        is_fresh_now = after[turned_fresh_or_not] == FRESH
        if len(turned):
            fresh = np.append(_without(fresh, turned, len(kind)), turned[is_fresh_now])
        return replace(
            self,
            kind=kind,
            ctr=ctr,
            established_by_topic=self._with_changes(
                self.established_by_topic, changed[in_queues], after[in_queues] == ESTABLISHED, ctr, clicks
            ),
            fresh_by_topic=self._with_changes(self.fresh_by_topic, turned, is_fresh_now),
            popular=popular,
            popular_interleaved=popular_interleaved,
            fresh=fresh,
            exposures=exposures,
            clicks=clicks,
        )

    def grown(self, item_topics: ItemTopics) -> "TopicQueues":
        """The queues for more items, which are hidden until `updated` is told of them. `item_topics` has the topics of all."""
        more = len(item_topics.offsets) - 1 - len(self.kind)
        missing = max(0, int(item_topics.topics.max(initial=-1)) + 1 - len(self.established_by_topic))
        return replace(
            self,
            item_topics=item_topics,
            kind=np.append(self.kind, np.full(more, HIDDEN, np.int8)),
            ctr=np.append(self.ctr, np.zeros(more, np.float32)),
            established_by_topic=self.established_by_topic + [NO_ITEMS] * missing,
            fresh_by_topic=self.fresh_by_topic + [NO_ITEMS] * missing,
        )

    def queue(self, topic: int, count: int | None = None, draw_seed: int = 0) -> np.ndarray:
        """The first `count` items of a topic's queue (all of them for None), the best first; empty for a topic without a queue.

        The fresh items are read from the position `draw_seed` of their list on and then from its start, so that another number
        draws other items.
        """
        if not 0 <= topic < len(self.established_by_topic):
            return NO_ITEMS
        established, fresh, share = self.established_by_topic[topic], self.fresh_by_topic[topic], self.settings.fresh_share
        drawn = self.length(topic) - len(established)
        if count is not None and count < len(established) + drawn:
            drawn = min(drawn, max(int(count * share + 1e-9), count - len(established)))
            established = established[: count - drawn]
        if not drawn:
            return established
        return mixed(established, fresh[(draw_seed + np.arange(drawn)) % len(fresh)], share)

    def length(self, topic: int) -> int:
        """The number of items in the whole queue of a topic."""
        if not 0 <= topic < len(self.established_by_topic):
            return 0
        established, fresh, share = (
            len(self.established_by_topic[topic]),
            len(self.fresh_by_topic[topic]),
            self.settings.fresh_share,
        )
        room = int(np.ceil(established * share / max(1 - share, 1e-9))) if established else fresh
        return established + min(fresh, room)

    def is_shown(self, items: np.ndarray) -> np.ndarray:
        """A mask of the items that may be shown at all."""
        return self.kind[items] != HIDDEN

    def is_fresh(self, items: np.ndarray) -> np.ndarray:
        """A mask of the items that are fresh."""
        return self.kind[items] == FRESH

    def is_weak(self, items: np.ndarray) -> np.ndarray:
        """A mask of the items that were shown often and clicked too rarely for a queue."""
        return self.kind[items] == WEAK

    def odds(self, items: np.ndarray) -> np.ndarray:
        """The probability with which Thompson sampling draws each of these items: float64, which adds up to 1."""
        return exploration.odds(self.exposures[items], self.clicks[items], self.rate)

    @cached_property
    def rate(self) -> float:
        """The click rate of the whole catalog. It is computed when it is first asked for."""
        return float(self.clicks.sum() / max(self.exposures.sum(), 1))

    def by_popularity(self, interleaved: bool) -> Iterator[np.ndarray]:
        """All items that are not fresh, in two parts: the popular ones (topics take turns if `interleaved`), then all others.

        The second part reads the whole catalog, but only when it is needed.
        """
        yield self.popular_interleaved if interleaved else self.popular
        others = self.kind >= ESTABLISHED
        others[self.popular] = False
        yield np.flatnonzero(others).astype(np.int32)

    def fresh_from(self, draw_seed: int) -> Iterator[np.ndarray]:
        """All fresh items in two parts: from the position `draw_seed` of their list on, then from its start."""
        start = draw_seed % max(len(self.fresh), 1)
        yield self.fresh[start:]
        yield self.fresh[:start]

    def _with_changes(
        self,
        lists: list[np.ndarray],
        changed: np.ndarray,
        belong: np.ndarray,
        ctr: np.ndarray | None = None,
        clicks: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """The lists after some items changed: an item that belongs there (a mask) is in the lists of its topics, others in none.

        The lists are ordered by `ctr` and then by `clicks`, the best first. Without these, new items are appended.
        """
        row, topic = self.item_topics.pairs(changed)
        touched = np.unique(topic)
        old = [lists[number] for number in touched.tolist()]
        listed, added = np.concatenate([NO_ITEMS, *old]), belong[row]
        kept = _is_outside(listed, changed, len(self.kind))
        items = np.concatenate([listed[kept], changed[row[added]]])
        topics = np.concatenate([np.repeat(touched, [len(part) for part in old])[kept], topic[added]])
        # One number orders by topic and, inside a topic, by CTR, however large the CTR is. Most of the items are in order already,
        # which makes the stable sort fast.
        key = topics if ctr is None else topics + 0.5 / (1.0 + ctr[items].astype(np.float64))
        order = np.argsort(key, kind="stable")
        if clicks is not None:
            order = _by_clicks(order, key, clicks[items])
        items, ends = items[order], np.cumsum(np.bincount(np.searchsorted(touched, topics), minlength=len(touched))).tolist()
        new = list(lists)
        for number, start, end in zip(touched.tolist(), [0, *ends], ends, strict=False):
            new[number] = items[start:end].copy()  # a view would keep all the other lists alive
        return new


def mixed(others: np.ndarray, fresh: np.ndarray, share: float) -> np.ndarray:
    """Both in their order: the n-th fresh item has position n / share, as long as there are enough others before it."""
    places = np.minimum(_ahead(share, 1 << len(fresh).bit_length())[: len(fresh)], len(others)) + np.arange(len(fresh))
    found, is_other = np.empty(len(others) + len(fresh), others.dtype), np.ones(len(others) + len(fresh), dtype=bool)
    is_other[places] = False
    found[places], found[is_other] = fresh, others
    return found


@lru_cache(maxsize=256)
def _ahead(share: float, count: int) -> np.ndarray:
    """How many others come before each of the first `count` fresh items, if there are enough of them: int64."""
    number = np.arange(count)
    return np.ceil((number + 1) * (1 - share) / max(share, 1e-9) - 1e-9).astype(np.int64)


def interleaved_by_topic(items: np.ndarray, item_topics: ItemTopics) -> np.ndarray:
    """The items reordered so that topics take turns: the first of each topic, then the second of each, and so on.

    An item of several topics waits until each of them has reached it. The items without a topic count as one more topic.
    """
    row, topic = item_topics.pairs(items)
    without = np.flatnonzero(item_topics.offsets[items] == item_topics.offsets[items + 1])
    row, topic = np.append(row, without), np.append(topic, np.full(len(without), -1))
    order = np.argsort(topic, kind="stable")
    turn = np.zeros(len(items), dtype=np.int64)
    np.maximum.at(turn, row[order], np.arange(len(order)) - np.searchsorted(topic[order], topic[order]))
    return items[np.argsort(turn, kind="stable")]


def _kinds(exposures: np.ndarray, clicks: np.ndarray, available: np.ndarray, settings: Recall) -> np.ndarray:
    strong = clicks >= settings.min_ctr * np.maximum(exposures, 1)
    shown = np.where(exposures < settings.min_exposures, FRESH, np.where(strong, ESTABLISHED, WEAK))
    return np.where(available, shown, HIDDEN).astype(np.int8)


def _by_clicks(order: np.ndarray, key: np.ndarray, clicks: np.ndarray) -> np.ndarray:
    """The order by `key` with those of the same key by their clicks, the most first. Few are moved, which is fast."""
    same = np.diff(key[order]) == 0
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    moved = order.copy()
    moved[tied] = order[tied][np.lexsort((-clicks[order[tied]], key[order[tied]]))]
    return moved


def _is_outside(items: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """A mask of the items that are not among the others; all are below `count`.

    The cost depends on the lengths of the two and not on `count`: memory of zeros that is never touched is free.
    """
    among = np.zeros(count, dtype=bool)
    among[others] = True
    return ~among[items]


def _without(items: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    return items[_is_outside(items, others, count)]
