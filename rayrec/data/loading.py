"""A workspace's tables as `RankingData`: training and evaluation read their rows in this one way."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Ranker, Split
from rayrec.data.blocks import ExampleSource
from rayrec.data.context import FROM_TIME, ContextEncoder, refuse_unknown_context
from rayrec.data.encoders import FittedEncoders
from rayrec.data.examples import Examples, log_columns
from rayrec.data.fields import DataError, FieldTable, Tables
from rayrec.data.history import ClickHistory
from rayrec.tables import TableError

# Folders of the stage `train`; `Scorer.load` reads each of them.
RANKER, RANKER_WITHOUT_TOPICS = "ranker", "ranker_without_topics"
# The tables from which a ranker is made, for the stages that use one.
READS = ("catalog", "interactions")
MAY_READ = ("users", "topics", "vectors")


@dataclass(frozen=True)
class RankingData:
    """What training and evaluation share: the fitted encoders with their tables and clicks, and the examples of each split."""

    encoders: FittedEncoders
    train: ExampleSource  # `Examples`, unless they are streamed
    validation: Examples
    test: Examples
    test_log: pa.Table  # the interactions of the test split, row for row

    @property
    def users(self) -> FieldTable:
        return self.encoders.users

    @property
    def items(self) -> FieldTable:
        return self.encoders.items

    @property
    def clicks(self) -> ClickHistory:
        return self.encoders.clicks

    @property
    def context_encoder(self) -> ContextEncoder:
        return self.encoders.context_encoder

    @property
    def tables(self) -> Tables:
        """What a model is built for."""
        return Tables(self.users, self.items, self.context_encoder.sizes)


class TableReader(Protocol):
    """A `StageRun` or a `Workspace`."""

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table: ...

    def read_if_there(self, table: str) -> pa.Table | None: ...


def ranking_data(reader: TableReader, settings: Ranker, split: Split) -> RankingData:
    """Joined, encoded and split by time. Raises `DataError` for tables or settings that no ranker can be trained on."""
    try:
        interactions = reader.read("interactions", [*log_columns(settings), "request_id"])
    except TableError as error:
        raise DataError(f"ranker.context_fields: {error} ({', '.join(FROM_TIME)} come from the time)") from error
    return prepare(interactions, joined_items(reader, settings), reader.read_if_there("users"), settings, split)


def joined_items(reader: TableReader, settings: Ranker) -> pa.Table:
    """The catalog with the topics and vectors that the ranker uses."""
    topics = reader.read_if_there("topics") if settings.topics else None
    vectors = reader.read_if_there("vectors") if settings.modalities else None
    return join_items(reader.read("catalog"), topics, vectors, list(settings.modalities))


def join_items(catalog: pa.Table, topics: pa.Table | None, vectors: pa.Table | None, modalities: list[str]) -> pa.Table:
    """The catalog with its `topics` and the wanted `vectors`, in the catalog's order."""
    items = catalog
    if topics is not None and topics.num_rows:
        items = _with_columns(items, topics, ["topics"])
    if vectors is not None and vectors.num_rows and modalities:
        items = _with_columns(items, vectors, list(modalities))
    return items


def prepare(interactions: pa.Table, items: pa.Table, users: pa.Table | None, settings: Ranker, split: Split) -> RankingData:
    """Encode and split. `items` is the catalog with its topics and vectors joined (`join_items`), `users` has the side columns.

    Raises `DataError` for tables or settings that no ranker can be trained on.
    """
    refuse_unknown_context(settings.context_fields, interactions.column_names)
    shown_at = interactions["shown_at"].to_numpy()
    if (shown_at[1:] < shown_at[:-1]).any():
        interactions = interactions.take(pa.array(np.argsort(shown_at, kind="stable")))
    encoders = FittedEncoders.fit(lambda columns: [interactions.select(columns)], items, users, settings, split)
    examples, rows = encoders.log_encoder(interactions), encoders.split
    return RankingData(
        encoders,
        train=examples.take(rows.train),
        validation=examples.take(rows.validation),
        test=examples.take(rows.test),
        # A slice would keep the whole log in memory.
        test_log=interactions.take(pa.array(np.arange(rows.test.start, rows.test.stop))),
    )


def _with_columns(items: pa.Table, other: pa.Table, columns: list[str]) -> pa.Table:
    """The items with columns of another table, matched by `video_id`; null for videos that it lacks."""
    rows = pc.index_in(items["video_id"], value_set=other["video_id"].combine_chunks())
    for name in columns:
        items = items.append_column(name, other[name].combine_chunks().take(rows.combine_chunks()))
    return items
