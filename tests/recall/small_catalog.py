"""Twenty items in small: item i has topic i % 4, items 16-20 are fresh, and the CTR of the others falls with their number."""

import numpy as np
import pyarrow as pa

from rayrec.config import Recall
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.items import ItemData
from rayrec.recall.queues import NO_ITEMS, ItemTopics, TopicQueues
from rayrec.recall.source import Query

TOPICS = ItemTopics.of_lists(pa.array([None, *([i % 4] for i in range(1, 21))], pa.list_(pa.int32())))
ITEMS = ItemData(TOPICS, np.arange(21, dtype=np.int32) % 5)
NOTHING = Exclusions.of(NO_ITEMS)


def make_queues(settings: Recall) -> TopicQueues:
    exposures = np.array([0] + [100] * 15 + [0] * 5)
    clicks = np.array([0, *range(60, 45, -1)] + [0] * 5)
    return TopicQueues.build(TOPICS, exposures, clicks, np.arange(21) > 0, settings, np.random.default_rng(0))


def query(clicked: list[int] | None = None, exclusions: Exclusions = NOTHING, draw_seed: int = 0) -> Query:
    history = np.array(clicked or [], dtype=np.int32)
    return Query("ann", history, np.arange(len(history), dtype=np.int64), exclusions, draw_seed)
