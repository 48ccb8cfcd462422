"""The most clicked items of the whole catalog."""

import numpy as np

from rayrec.recall.exclusions import Exclusions, first_allowed
from rayrec.recall.queues import TopicQueues
from rayrec.recall.source import Candidates, Query, Source


class Popular(Source):
    """The topics take turns for a user without clicks, of whom nothing is known."""

    label = "popular"

    def candidates(self, query: Query, queues: TopicQueues, count: int) -> Candidates:
        return Candidates.of(popular_items(queues, query.exclusions, count, interleaved=not len(query.clicked)))


def popular_items(queues: TopicQueues, exclusions: Exclusions, count: int, interleaved: bool) -> np.ndarray:
    """The first `count` popular items that are not excluded: by their clicks, or with the topics taking turns."""
    return first_allowed(queues.by_popularity(interleaved), exclusions, count)
