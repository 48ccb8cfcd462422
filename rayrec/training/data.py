"""A workspace's tables as `RankingData`: the one way in which training and evaluation come to their rows."""

from collections.abc import Callable

import pyarrow as pa

from rayrec.config import Ranker, Split
from rayrec.ranking.context import FROM_TIME
from rayrec.ranking.examples import RankingData, join_items, log_columns, prepare
from rayrec.ranking.fields import DataError
from rayrec.tables import TableError

# Folders of the stage `train`, each what `Scorer.load` takes.
RANKER, RANKER_WITHOUT_TOPICS = "ranker", "ranker_without_topics"
# The tables that a ranker is made from, for the stages that use it.
READS = ("catalog", "interactions")
MAY_READ = ("users", "topics", "vectors")

ReadIfThere = Callable[[str], pa.Table | None]


def ranking_data(read: Callable[..., pa.Table], read_if_there: ReadIfThere, settings: Ranker, split: Split) -> RankingData:
    """Joined, encoded and split by time. The readers are those of a `StageRun`.

    Raises `DataError` for what no ranker can be trained on.
    """
    try:
        interactions = read("interactions", [*log_columns(settings), "request_id"])
    except TableError as error:
        raise DataError(f"ranker.context_fields: {error} ({', '.join(FROM_TIME)} come from the time)") from error
    return prepare(interactions, joined_items(read, read_if_there, settings), read_if_there("users"), settings, split)


def joined_items(read: Callable[..., pa.Table], read_if_there: ReadIfThere, settings: Ranker) -> pa.Table:
    """The catalog with the topics and vectors that the ranker uses."""
    topics = read_if_there("topics") if settings.topics else None
    vectors = read_if_there("vectors") if settings.modalities else None
    return join_items(read("catalog"), topics, vectors, list(settings.modalities))
