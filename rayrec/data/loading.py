"""A workspace's tables as `RankingData`: the one way in which training and evaluation come to their rows."""

from typing import Protocol

import pyarrow as pa

from rayrec.config import Ranker, Split
from rayrec.data.context import FROM_TIME
from rayrec.data.examples import RankingData, join_items, log_columns, prepare
from rayrec.data.fields import DataError
from rayrec.tables import TableError

# Folders of the stage `train`, each what `Scorer.load` takes.
RANKER, RANKER_WITHOUT_TOPICS = "ranker", "ranker_without_topics"
# The tables that a ranker is made from, for the stages that use it.
READS = ("catalog", "interactions")
MAY_READ = ("users", "topics", "vectors")


class Reader(Protocol):
    """A `StageRun` or a `Workspace`."""

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table: ...

    def read_if_there(self, table: str) -> pa.Table | None: ...


def ranking_data(reader: Reader, settings: Ranker, split: Split) -> RankingData:
    """Joined, encoded and split by time. Raises `DataError` for what no ranker can be trained on."""
    try:
        interactions = reader.read("interactions", [*log_columns(settings), "request_id"])
    except TableError as error:
        raise DataError(f"ranker.context_fields: {error} ({', '.join(FROM_TIME)} come from the time)") from error
    return prepare(interactions, joined_items(reader, settings), reader.read_if_there("users"), settings, split)


def joined_items(reader: Reader, settings: Ranker) -> pa.Table:
    """The catalog with the topics and vectors that the ranker uses."""
    topics = reader.read_if_there("topics") if settings.topics else None
    vectors = reader.read_if_there("vectors") if settings.modalities else None
    return join_items(reader.read("catalog"), topics, vectors, list(settings.modalities))
