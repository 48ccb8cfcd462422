"""What goes with the latest clicks, by the neighbours that a collaborative model gives each item (as Linden et al., 2003)."""

import numpy as np

from rayrec.config import ConfigError, Recall, Section
from rayrec.recall.exclusions import first_allowed
from rayrec.recall.items import ItemData
from rayrec.recall.queues import TopicQueues
from rayrec.recall.source import Candidates, Query, Source


class ItemNeighbours(Source):
    """The neighbours of the last `recall.clicks` clicks add up their weights. A user without clicks gets no candidates."""

    label = "similar"
    is_collaborative = True

    def __init__(self, settings: Recall, options: Section, items: ItemData) -> None:
        super().__init__(settings, options, items)
        if items.neighbours is None:
            raise ConfigError(
                "recall.sources.item_neighbours: the neighbours of the videos are not there; run `rayrec collaborative CONFIG` "
                "and, to serve them, `rayrec publish CONFIG`"
            )
        self.neighbours = items.neighbours

    def candidates(self, query: Query, queues: TopicQueues, count: int) -> Candidates:
        items, weights = self.neighbours.of(query.clicked[-self.settings.clicks :])
        shown = queues.is_shown(items)
        items, weights = items[shown], weights[shown]
        return Candidates.of(first_allowed([items[np.argsort(-weights, kind="stable")]], query.exclusions, count))
