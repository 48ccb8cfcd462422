"""One queue of videos for each topic, ordered by click-through rate (SOURCES C.4).

Items are the ranker's item indices (0 = no item), so that nothing is translated between recall and ranking.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayrec.config import Recall


@dataclass(frozen=True)
class ItemTopics:
    """The topics of each item, as CSR: `topics[offsets[i] : offsets[i + 1]]` are those of item i."""

    offsets: np.ndarray  # int64 [I + 1], I counts item 0 too
    topics: np.ndarray  # int32

    @classmethod
    def of(cls, item_ids: list[str], topics: pa.Table | None) -> "ItemTopics":
        """From the `topics` table, for items in the order of `item_ids`; videos that it lacks have none."""
        if topics is None or not topics.num_rows:
            return cls(np.zeros(len(item_ids) + 1, dtype=np.int64), np.empty(0, dtype=np.int32))
        rows = pa.compute.index_in(pa.array(item_ids, pa.string()), value_set=topics["video_id"].combine_chunks())
        lists = topics["topics"].combine_chunks().take(rows)
        lengths = pa.compute.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(offsets, lists.flatten().to_numpy(zero_copy_only=False).astype(np.int32))

    def of_items(self, items: np.ndarray) -> np.ndarray:
        """The topics of all the items, one after the other."""
        starts, lengths = self.offsets[items], self.offsets[items + 1] - self.offsets[items]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self.topics[np.repeat(starts, lengths) + within]


@dataclass(frozen=True)
class TopicQueues:
    """The queues as CSR, and two queues over all topics: `popular` (most clicks first) and `fresh` (at random)."""

    offsets: np.ndarray  # int64 [topics + 1]
    items: np.ndarray  # int32
    popular: np.ndarray  # int32
    fresh: np.ndarray  # int32

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
        """From each item's counters and whether it may be shown at all (arrays over items, item 0 included).

        A fresh item has fewer than `least_exposures`; it is drawn into a queue at random, so that fresh items make up `fresh_share`
        of the queue (the whole queue where a topic has nothing else). An established item stays while its CTR is at least
        `least_ctr`. Fresh items stand evenly between the established ones, which are in order of CTR.
        """
        available = available.copy()
        available[0] = False
        is_fresh = available & (exposures < settings.least_exposures)
        ctr = clicks / np.maximum(exposures, 1)
        is_established = available & ~is_fresh & (ctr >= settings.least_ctr)

        owner = np.repeat(np.arange(len(available)), np.diff(item_topics.offsets))
        topic_count = int(item_topics.topics.max(initial=-1)) + 1
        luck = rng.random(len(available))
        kept = (is_fresh | is_established)[owner]
        item, topic = owner[kept], item_topics.topics[kept]
        fresh = is_fresh[item]
        # Rank inside (topic, fresh or not): established by CTR, fresh by luck.
        order = np.lexsort((np.where(fresh, luck[item], -ctr[item]), fresh, topic))
        item, topic, fresh = item[order], topic[order], fresh[order]
        group = topic * 2 + fresh
        rank = np.arange(len(item)) - np.searchsorted(group, group)
        established = np.bincount(topic[~fresh], minlength=topic_count)
        share = settings.fresh_share
        room = np.where(established > 0, np.ceil(established * share / max(1 - share, 1e-9)), np.inf)
        kept = ~fresh | (rank < (room[topic] if share > 0 else np.where(established > 0, 0, np.inf)[topic]))
        item, topic, fresh, rank = item[kept], topic[kept], fresh[kept], rank[kept]
        place = np.where(fresh, (rank + 1) / max(share, 1e-9), (rank + 1) / max(1 - share, 1e-9))
        order = np.lexsort((place, topic))
        offsets = np.searchsorted(topic[order], np.arange(topic_count + 1))

        popular = np.flatnonzero(available & ~is_fresh)
        popular = popular[np.lexsort((-ctr[popular], -clicks[popular]))]
        all_fresh = np.flatnonzero(is_fresh)
        return cls(
            offsets.astype(np.int64),
            item[order].astype(np.int32),
            popular.astype(np.int32),
            all_fresh[np.argsort(luck[all_fresh])].astype(np.int32),
        )

    def queue(self, topic: int) -> np.ndarray:
        """A topic's items by rank; empty for a topic without a queue."""
        if not 0 <= topic < len(self.offsets) - 1:
            return self.items[:0]
        return self.items[self.offsets[topic] : self.offsets[topic + 1]]
