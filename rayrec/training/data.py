"""A workspace's tables as `RankingData`: the one way in which training and evaluation come to their rows."""

from collections.abc import Callable

import pyarrow as pa

from rayrec.config import Ranker, Split
from rayrec.ranking.examples import RankingData, join_items, prepare

# Folders of the stage `train`, each what `Scorer.load` takes.
RANKER, RANKER_WITHOUT_TOPICS = "ranker", "ranker_without_topics"
# The tables that a ranker is made from, for the stages that use it.
READS = ("catalog", "interactions")
MAY_READ = ("users", "topics", "vectors")


def ranking_data(
    read: Callable[[str], pa.Table], read_if_there: Callable[[str], pa.Table | None], settings: Ranker, split: Split
) -> RankingData:
    """Joined, encoded and split by time. The readers are those of a `StageRun`."""
    topics = read_if_there("topics") if settings.topics else None
    vectors = read_if_there("vectors") if settings.modalities else None
    items = join_items(read("catalog"), topics, vectors, list(settings.modalities))
    return prepare(read("interactions"), items, read_if_there("users"), settings, split)
