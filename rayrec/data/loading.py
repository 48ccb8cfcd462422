"""The encoded log and the workspace's tables as `RankingData`: training and evaluation read them in this one way."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Ranker, Split
from rayrec.config.goals import WATCH_S
from rayrec.data.context import ContextEncoder, refuse_times_of_day, refuse_unknown_context
from rayrec.data.encoders import Encoders, FittedEncoders, all_user_ids
from rayrec.data.errors import refuse_nested, refuse_no_clicks
from rayrec.data.examples import Examples, encoded
from rayrec.data.fields import FieldTable, Tables
from rayrec.data.goals import LabelRule, durations, goal_labels, numbers_of, refuse_missing, shares_watched
from rayrec.data.history import ClickHistory, click_times
from rayrec.data.pages import NO_PAGES, Pages
from rayrec.data.popularity import DailyCounts, FadingCounts, refuse_without_times
from rayrec.data.shards import EncodedLog, Known
from rayrec.data.shares import Share
from rayrec.data.shuffling import ExampleSource
from rayrec.data.split import LogSplit, split_in_memory
from rayrec.data.vocabulary import indices_of
from rayrec.tables import MAPS, MAPS_SHAPE, TEXT
from rayrec.training.exchange import SINGLE, Worker

# Folders of the stage `train`; `Scorer.load` reads each of them.
RANKER, RANKER_WITHOUT_TOPICS = "ranker", "ranker_without_topics"
# The tables from which a ranker is made beside the encoded log, for the stages that use one.
READS = ("catalog",)
MAY_READ = ("users", "topics", "vectors")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankingData:
    """What training and evaluation share: the fitted encoders with their tables, and the clicks and examples of each split.

    Those of a share have the clicks and examples of some users alone, but the tables of all users and items.
    """

    encoders: FittedEncoders
    clicks: ClickHistory
    train: ExampleSource  # `Examples` where they are in memory
    validation: Examples
    read_test: Callable[[], tuple[Examples, np.ndarray]]  # for `test` and `test_row`, which training never holds
    daily: DailyCounts  # of all users and all splits; whoever reads it looks only at the days before
    clicks_only: bool = False  # whether the training split of the log has no impression that was not clicked
    read_pages: Callable[[], Pages] = lambda: NO_PAGES  # of the training split
    recent: ExampleSource | None = None  # the part of `train` that a training learns from which goes on; None: all of it

    @cached_property
    def _test(self) -> tuple[Examples, np.ndarray]:
        return self.read_test()

    @property
    def test(self) -> Examples:
        return self._test[0]

    @property
    def test_row(self) -> np.ndarray:
        """int32 [test]: the number of each test example in the whole test split, in time order."""
        return self._test[1]

    @property
    def users(self) -> FieldTable:
        return self.encoders.users

    @property
    def items(self) -> FieldTable:
        return self.encoders.items

    @property
    def context_encoder(self) -> ContextEncoder:
        return self.encoders.context_encoder

    @property
    def tables(self) -> Tables:
        """What a model is built for."""
        return Tables(self.users, self.items, self.context_encoder.sizes)

    @classmethod
    def of(cls, encoders: FittedEncoders, share: Share, in_memory: bool = False, since: int | None = None) -> "RankingData":
        """The data of a share, whose training examples stay in their files unless they shall be `in_memory`.

        Those of the time `since` (UTC ms) and later are `recent`.
        """
        train = share.train_in_memory() if in_memory else share.train
        facts, daily = share.log.facts, share.log.daily
        recent = None if since is None else share.train_since(since)
        return cls(encoders, share.clicks, train, share.validation(), share.test, daily, facts.clicks_only, share.pages, recent)

    def popularity(self, settings: Ranker) -> FadingCounts | None:
        """What a ranker with these settings knows of how popular videos are, if anything."""
        return FadingCounts.of(self.daily, settings.half_lives, len(self.items.ids)) if settings.half_lives else None


class TableReader(Protocol):
    """A `StageRun` or a `Workspace`."""

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table: ...

    def read_if_there(self, table: str, columns: list[str] | None = None) -> pa.Table | None: ...


def ranking_data(
    reader: TableReader,
    encoded_log: EncodedLog,
    settings: Ranker,
    worker: Worker = SINGLE,
    base: Encoders | None = None,
    since: int | None = None,
) -> RankingData:
    """The data of one of several workers. A training that goes on has a `base`, and learns `since` when that one's data ended.

    Raises `DataError` for tables or settings that no ranker can be trained on.
    """
    encoders = fitted_encoders(reader, encoded_log, settings, base)
    goals = list(settings.goals.values())
    share = Share.of_worker(encoded_log, worker, encoders.context_encoder, len(encoders.users.ids), goals)
    return RankingData.of(encoders, share, since=since)


def fitted_encoders(reader: TableReader, encoded_log: EncodedLog, settings: Ranker, base: Encoders | None = None) -> FittedEncoders:
    """Raises `DataError` for tables or settings that no ranker can be trained on."""
    refuse_without_times(settings.popularity, encoded_log.facts.split_by)
    context = encoded_log.facts.context.only(settings.context_fields)
    items, users = joined_items(reader, settings), reader.read_if_there("users")
    known, split_by = encoded_log.users, encoded_log.facts.split_by
    return FittedEncoders.fit(settings, items, users, encoded_log.items.trained, known, context, split_by, base)


def joined_items(reader: TableReader, settings: Ranker) -> pa.Table:
    """The catalog with the topics and vectors that the ranker uses, instead of columns of the user that have their names."""
    catalog = reader.read("catalog")
    wanted = vector_columns(settings)
    joined = [*(["topics"] if settings.topics else []), *wanted]
    for name in set(joined) & set(catalog.column_names):
        log.warning("the catalog's column %r is not used, since the ranker reads rayrec's own %r; rename yours", name, name)
        catalog = catalog.drop_columns([name])
    topics = reader.read_if_there("topics") if settings.topics else None
    vectors = reader.read_if_there("vectors", ["video_id", *wanted]) if wanted else None
    return join_items(catalog, topics, vectors, wanted)


def vector_columns(settings: Ranker) -> list[str]:
    """The columns of `vectors` that the ranker uses."""
    return list(dict.fromkeys([*settings.modalities, *((MAPS, MAPS_SHAPE) if settings.reads_maps else ())]))


def join_items(catalog: pa.Table, topics: pa.Table | None, vectors: pa.Table | None, wanted: list[str]) -> pa.Table:
    """The catalog with its `topics` and the wanted columns of `vectors`, in the catalog's order."""
    items = catalog
    if topics is not None and topics.num_rows:
        items = _with_columns(items, topics, ["topics"])
    if vectors is not None and vectors.num_rows and wanted:
        items = _with_columns(items, vectors, wanted)
    return items


def prepare(
    interactions: pa.Table,
    items: pa.Table,
    users: pa.Table | None,
    settings: Ranker,
    split: Split | LogSplit,
    base: Encoders | None = None,
    since: int | None = None,
) -> RankingData:
    """The data of a log that is in memory: what `ranking_data` reads of it after it was encoded, without any files.

    `items` is the catalog with its topics and vectors joined (`join_items`), `users` has the side columns. A `LogSplit` is
    that of a log in time order. Raises `DataError` for tables or settings that no ranker can be trained on.
    """
    refuse_unknown_context(settings.context_fields, interactions.column_names)
    shown_at = interactions["shown_at"].to_numpy()
    if (shown_at[1:] < shown_at[:-1]).any():
        interactions = interactions.take(pa.array(np.argsort(shown_at, kind="stable")))
    rows = split if isinstance(split, LogSplit) else split_in_memory(interactions["shown_at"].to_numpy(), split)
    refuse_times_of_day(settings.context_fields, rows)
    refuse_without_times(settings.popularity, rows.by)
    trained = interactions.slice(0, rows.train_end)
    refuse_no_clicks(set(pc.unique(trained["clicked"]).to_pylist()), trained.num_rows)
    user_ids = all_user_ids(users, interactions["user_id"])
    seen_users, seen_items = (
        pc.is_in(ids.cast(TEXT), value_set=pc.unique(trained[name].cast(TEXT))).to_numpy(zero_copy_only=False)
        for ids, name in ((user_ids, "user_id"), (items["video_id"], "video_id"))
    )

    def values(name: str) -> pa.ChunkedArray:
        refuse_nested(name, trained[name].type)
        return trained[name]

    context = ContextEncoder.fit(settings.context_fields, values)
    encoders = FittedEncoders.fit(settings, items, users, seen_items, Known(user_ids, seen_users), context, rows.by, base)
    ids = [pa.array(table.ids, TEXT) for table in (encoders.users, encoders.items)]
    clicked = interactions.filter(interactions["clicked"])
    click_users, click_items = (indices_of(clicked[name], known) for name, known in zip(("user_id", "video_id"), ids, strict=True))
    clicks = ClickHistory.of(click_users, click_items, click_times(clicked), len(encoders.users.ids))
    labels = functools.partial(_labels, settings, items)
    examples = encoded(interactions, ids[0], ids[1], clicks, encoders.context_encoder, labels)
    train, *held_out = (examples.take(part) for part in (rows.train, rows.validation, rows.test))
    validation, test = (replace(part, context=encoders.context_encoder.without_position(part.context)) for part in held_out)
    made_at, row = click_times(interactions), np.arange(len(test), dtype=np.int32)
    daily = DailyCounts.of(examples.user, examples.item, examples.at, examples.clicked, made_at)
    clicks_only = bool(train.clicked.all())
    pages = _pages(trained, train)
    recent = None if since is None else train.take(train.at >= since)
    return RankingData(encoders, clicks, train, validation, lambda: (test, row), daily, clicks_only, lambda: pages, recent)


def _labels(settings: Ranker, items: pa.Table, log: pa.Table, item: np.ndarray) -> np.ndarray | None:
    """The labels of the goals of a log in memory, if there are any: float32 [rows, G]."""
    if not settings.goals:
        return None
    rules = [LabelRule.of(name, goal) for name, goal in settings.goals.items()]
    refuse_missing(rules, log.column_names)
    columns = {}
    for rule in rules:
        if rule.column in log.column_names:
            columns[rule.column] = numbers_of(log[rule.column], rule.column)
            rule.check(columns[rule.column])
        else:
            columns[rule.column] = shares_watched(numbers_of(log[WATCH_S], WATCH_S), durations(items)[item])
    return goal_labels(settings.goals.values(), columns)


def _pages(log: pa.Table, examples: Examples) -> Pages:
    """The pages of a log in memory, whose rows these examples are."""
    if "request_id" not in log.column_names:
        return NO_PAGES
    page = log["request_id"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return Pages.of(examples.user, examples.item, examples.at, examples.clicked, page)


def _with_columns(items: pa.Table, other: pa.Table, columns: list[str]) -> pa.Table:
    """The items with columns of another table, matched by `video_id`; null for videos that it lacks."""
    rows = pc.index_in(items["video_id"], value_set=other["video_id"].combine_chunks())
    for name in columns:
        items = items.append_column(name, other[name].combine_chunks().take(rows.combine_chunks()))
    return items
