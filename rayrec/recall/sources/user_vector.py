"""The items whose vectors have the largest products with the user's, as in two-tower models and matrix factorisation."""

from rayrec.config import ConfigError, Recall, Section
from rayrec.config.base import Count
from rayrec.recall.items import ItemData
from rayrec.recall.queues import NO_ITEMS, TopicQueues
from rayrec.recall.source import Candidates, Query, Source


class Options(Section):
    exact_videos: Count = 1_000_000  # in a larger catalog, usearch's graph (extra `search`) finds the nearest, approximately


def exact_videos(settings: Recall) -> int:
    """The largest catalog in which all vectors are compared."""
    source = settings.sources.get("user_vector")
    return Options.model_validate(source.options if source else {}).exact_videos


class UserVector(Source):
    """The vector is that of the last `recall.clicks` clicks. A user without clicks gets no candidates."""

    Options = Options
    label = "taste"
    is_collaborative = True

    def __init__(self, settings: Recall, options: Section, items: ItemData) -> None:
        super().__init__(settings, options, items)
        if items.vectors is None:
            raise ConfigError(
                "recall.sources.user_vector: there are no vectors of a collaborative model; choose a `collaborative.model` that "
                "has some, and run `rayrec collaborative CONFIG` and, to serve them, `rayrec publish CONFIG`"
            )
        self.vectors = items.vectors

    def candidates(self, query: Query, queues: TopicQueues, count: int) -> Candidates:
        user = self.vectors.user(query.clicked[-self.settings.clicks :])
        if not count or not user.any():
            return Candidates.of(NO_ITEMS)
        wanted = count + len(query.exclusions.items)
        while True:
            found = self.vectors.nearest(user, wanted)
            allowed = found[query.exclusions.allow(found) & queues.is_shown(found)]
            if len(allowed) >= count or len(found) < wanted:
                return Candidates.of(allowed[:count])
            wanted *= 4  # many of the nearest are withdrawn, or of blocked authors
