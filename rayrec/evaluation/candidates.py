"""How many of the videos that users went on to click recall finds: each source by itself, and in the mix that is served."""

from collections import defaultdict

import numpy as np

from rayrec.recall.pipeline import RecallPipeline, filtered
from rayrec.recall.queues import NO_ITEMS, TopicQueues
from rayrec.recall.source import Candidates, Query
from rayrec.training.metrics import recall_at_k

BACKFILL = "backfill"


class SourceRecall:
    """Means over users, by the name of the source.

    `users`: the share of users to whom the source brings anything. `alone`: the share of these users' relevant videos among as many
    candidates of this source as the mix has. `shared`: the share of those candidates that another source brings as well, to such a
    user. `in_mix`: the share of all users' relevant videos that the source's own part of the mix finds; these add up to the recall
    of the mix.
    """

    def __init__(self, pipeline: RecallPipeline) -> None:
        self.pipeline, self.names = pipeline, list(pipeline.settings.sources)
        self._values: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in [*self.names, BACKFILL]}

    def add(self, query: Query, queues: TopicQueues, mix: Candidates, relevant: np.ndarray) -> None:
        """Counts a user, whose mix of candidates is known already."""
        count = self.pipeline.settings.candidates
        alone = [
            filtered(source.candidates(query, queues, count), query.exclusions).items[:count] for source, _ in self.pipeline.sources
        ]
        for number, (name, items) in enumerate(zip(self.names, alone, strict=True)):
            values = self._values[name]
            values["in_mix"].append(recall_at_k(mix.items[mix.sources == number], relevant))
            values["users"].append(float(len(items) > 0))
            if len(items):
                values["alone"].append(recall_at_k(items, relevant))
                others = [NO_ITEMS, *(other for place, other in enumerate(alone) if place != number)]
                values["shared"].append(float(np.isin(items, np.concatenate(others)).mean()))
        self._values[BACKFILL]["in_mix"].append(recall_at_k(mix.items[mix.sources >= len(self.names)], relevant))

    def means(self) -> dict[str, dict[str, float]]:
        """The means of each source and of the backfill, which is not asked alone. What no user has is left out."""
        return {
            name: {measure: float(np.mean(found)) for measure, found in values.items()} for name, values in self._values.items()
        }
