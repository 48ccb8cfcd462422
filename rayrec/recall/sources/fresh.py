"""Items that few users have seen so far, drawn at random."""

import numpy as np

from rayrec.recall.exclusions import Exclusions, first_allowed
from rayrec.recall.queues import TopicQueues
from rayrec.recall.source import Candidates, Query, Source


class Fresh(Source):
    """Fresh items have had fewer than `min_exposures` impressions."""

    label = "new"

    def candidates(self, query: Query, queues: TopicQueues, count: int) -> Candidates:
        return Candidates.of(fresh_items(queues, query.exclusions, count, query.draw_seed))


def fresh_items(queues: TopicQueues, exclusions: Exclusions, count: int, draw_seed: int) -> np.ndarray:
    """The first `count` fresh items that are not excluded, from the position `draw_seed` of their list on."""
    return first_allowed(queues.fresh_from(draw_seed), exclusions, count)
