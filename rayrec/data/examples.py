"""The log as compact training examples, split by time, and the batches made of them.

An example is a few numbers (user, item, label, time, place in its user's clicks, context); users, items and histories are joined by
index at batch time, on the device. See `history.py` for why a history can't hold the future.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rayrec.config import Ranker, Split, Training
from rayrec.data.batches import Batch
from rayrec.data.blocks import Columns, Source, block_count, block_numbers, cut, shuffled
from rayrec.data.context import ContextEncoder, refuse_unknown_context
from rayrec.data.context import columns_of as context_columns
from rayrec.data.fields import DataError, FieldEncoder, FieldTable, Tables, indices_of, refuse_not_finite
from rayrec.data.history import ClickHistory, HistoryGather
from rayrec.data.split import split_times
from rayrec.errors import did_you_mean
from rayrec.tables import MODALITIES, spec_of
from rayrec.training.exchange import SINGLE, Worker


@dataclass(frozen=True)
class Examples:
    """Impressions in time order: 25 bytes each, 2 for each context field, and 4 for their place in the blocks."""

    user: np.ndarray  # int32
    item: np.ndarray  # int32
    clicked: np.ndarray  # bool
    at: np.ndarray  # int64, UTC ms
    end: np.ndarray  # int64, position in the click array behind the last click before `at`
    context: np.ndarray  # int16 or int32 [rows, C]
    _there: dict[torch.device, tuple[Columns, Tensor | None]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        return self.user, self.item, self.clicked, self.at, self.end, self.context

    def take(self, rows: slice) -> "Examples":
        return Examples(*(column[rows] for column in self.columns))

    @property
    def nbytes(self) -> int:
        """What they take in memory, or on one device."""
        order = 4 * len(self) if len(self.block_sizes) > 1 else 0
        return sum(column.nbytes for column in self.columns) + order

    def on(self, device: torch.device) -> Columns:
        """All of them on a device, where they stay; a CPU has no second copy."""
        return self._resident(device)[0]

    @cached_property
    def block_sizes(self) -> np.ndarray:
        return np.bincount(self._block_numbers(), minlength=block_count(len(self)))

    def blocks(self, numbers: Sequence[int], device: torch.device) -> Iterator[Columns]:
        """The blocks of these numbers, their rows in time order."""
        columns, order = self._resident(device)
        ends = np.cumsum(self.block_sizes)
        for number in numbers:
            if order is None:
                yield columns
            else:
                yield columns.take(order[ends[number] - self.block_sizes[number] : ends[number]])

    def _block_numbers(self) -> np.ndarray:
        return block_numbers(0, len(self), block_count(len(self)))

    def _resident(self, device: torch.device) -> tuple[Columns, Tensor | None]:
        """The columns on a device and, where there are several blocks, the rows in the order of their blocks (int32)."""
        if device not in self._there:
            order = None
            if len(self.block_sizes) > 1:
                by_block = np.argsort(self._block_numbers(), kind="stable").astype(np.int32)
                order = torch.from_numpy(by_block).to(device)
            self._there[device] = Columns(*(torch.from_numpy(column).to(device) for column in self.columns)), order
        return self._there[device]


@dataclass(frozen=True)
class LogEncoder:
    """Turns rows of the log into examples."""

    user_ids: pa.Array  # by number, "" in front
    item_ids: pa.Array
    context: ContextEncoder
    clicks: ClickHistory

    def __call__(self, log: pa.Table) -> Examples:
        user, item = indices_of(log["user_id"], self.user_ids), indices_of(log["video_id"], self.item_ids)
        at = log["shown_at"].to_numpy().copy()  # Arrow's memory is read-only, torch wants its own
        clicked = log["clicked"].to_numpy(zero_copy_only=False).astype(bool)
        return Examples(user, item, clicked, at, self.clicks.ends(user, at), self.context.encode(log, at))


@dataclass(frozen=True)
class RankingData:
    """All that training and evaluation share: the encoded tables, the clicks, and the examples of each split."""

    users: FieldTable
    items: FieldTable
    user_encoder: FieldEncoder
    item_encoder: FieldEncoder
    context_encoder: ContextEncoder
    clicks: ClickHistory
    train: Source  # `Examples`, unless they are streamed
    validation: Examples
    test: Examples
    test_log: pa.Table  # the interactions of the test split, row for row

    @property
    def tables(self) -> Tables:
        return Tables(self.users, self.items, self.context_encoder.sizes)


# The log in time order, in pieces with the given columns; may be walked more than once.
Pieces = Callable[[list[str]], Iterable[pa.Table]]


@dataclass(frozen=True)
class FittedEncoders:
    """What is learned from a walk over the log, before its rows become examples."""

    tables: dict[str, Any]  # those of the fields of `RankingData` that are known by now
    encoder: LogEncoder
    ends: tuple[int, int, int]  # rows behind the training, the validation and the test split

    @classmethod
    def of(cls, pieces: Pieces, items: pa.Table, users: pa.Table | None, settings: Ranker, split: Split) -> "FittedEncoders":
        """Raises `DataError` for a log, a catalog or settings that no ranker can be trained on."""
        ends, validation_at = _split_rows(pieces, split)
        trained = ends[0]
        users = _everyone(users, _distinct(pieces, "user_id", ends[2]))
        fields = item_columns(settings, items)
        refuse_not_finite(users, "user_id", users.column_names)
        refuse_not_finite(items, "video_id", fields)
        seen_users, seen_items = (
            _stands_in(table[name], _distinct(pieces, name, trained)) for table, name in ((users, "user_id"), (items, "video_id"))
        )
        user_encoder = FieldEncoder.fit(users, "user_id", users.column_names, seen_users)
        item_encoder = FieldEncoder.fit(items, "video_id", fields, seen_items)
        context_encoder = ContextEncoder.fit(settings.context_fields, lambda name: _distinct(pieces, name, trained))
        user_table, item_table = user_encoder.encode(users), item_encoder.encode(items)
        user_ids, item_ids = pa.array(user_table.ids, pa.string()), pa.array(item_table.ids, pa.string())
        clicks = _clicks(pieces, user_ids, item_ids)
        _refuse_one_label(int((clicks.times < validation_at).sum()), trained)
        tables = {
            "users": user_table,
            "items": item_table,
            "user_encoder": user_encoder,
            "item_encoder": item_encoder,
            "context_encoder": context_encoder,
            "clicks": clicks,
        }
        return cls(tables, LogEncoder(user_ids, item_ids, context_encoder, clicks), ends)


def log_columns(settings: Ranker) -> list[str]:
    """What examples need of the interactions."""
    return ["user_id", "video_id", "shown_at", "clicked", *context_columns(settings.context_fields)]


def item_columns(settings: Ranker, items: pa.Table) -> list[str]:
    """The columns of the joined item table that the ranker uses as fields; one without any value is left out.

    Raises `DataError` for a field that no catalog has, and for a modality of which there is no vector.
    """
    optional = [*spec_of("catalog").schema.names, "topics"]
    for name in settings.item_fields:
        if name not in items.column_names and name not in optional:
            near = did_you_mean(name, [*items.column_names, *optional])
            raise DataError(f"ranker.item_fields: the catalog has no column {name!r}{near}")
    held = [name for name in items.column_names if items[name].null_count < items.num_rows]
    for name in settings.modalities:
        if name not in held:
            there = ", ".join(modality for modality in MODALITIES if modality in held)
            raise DataError(
                f"ranker.modalities: no video has a vector {name!r} in `vectors` (there are: {there or 'none'}); leave it out, or "
                "let `rayrec extract` and `rayrec reduce` make it"
            )
    wanted = ["video_id", *settings.item_fields, *(["topics"] if settings.topics else []), *settings.modalities]
    return [name for name in wanted if name in held]


def prepare(interactions: pa.Table, items: pa.Table, users: pa.Table | None, settings: Ranker, split: Split) -> RankingData:
    """Encode and split. `items` is the catalog with its topics and vectors joined (`join_items`), `users` has the side columns.

    Raises `DataError` for what no ranker can be trained on.
    """
    refuse_unknown_context(settings.context_fields, interactions.column_names)
    shown_at = interactions["shown_at"].to_numpy()
    if (shown_at[1:] < shown_at[:-1]).any():
        interactions = interactions.take(pa.array(np.argsort(shown_at, kind="stable")))
    prepared = FittedEncoders.of(lambda columns: [interactions.select(columns)], items, users, settings, split)
    examples, (trained, validated, rows) = prepared.encoder(interactions), prepared.ends
    return RankingData(
        **prepared.tables,
        train=examples.take(slice(0, trained)),
        validation=examples.take(slice(trained, validated)),
        test=examples.take(slice(validated, rows)),
        test_log=interactions.take(pa.array(np.arange(validated, rows))),  # a slice would keep the whole log
    )


def join_items(catalog: pa.Table, topics: pa.Table | None, vectors: pa.Table | None, modalities: list[str]) -> pa.Table:
    """The catalog with its `topics` and the wanted `vectors`, in the catalog's order."""
    items = catalog
    if topics is not None and topics.num_rows:
        items = _lookup(items, topics, ["topics"])
    if vectors is not None and vectors.num_rows and modalities:
        items = _lookup(items, vectors, list(modalities))
    return items


def batches(
    examples: Examples, gather: HistoryGather, batch_size: int, device: torch.device, worker: Worker = SINGLE
) -> Iterator[Batch]:
    """A worker's share of the examples (rows rank, rank + count, ...) in time order, with one candidate each (N=1)."""
    share = examples.on(device).take(slice(worker.rank, None, worker.world_size))
    for rows in cut([share], batch_size):
        yield _batch(rows, gather, rows.end)


def steps_of(source: Source, settings: Training) -> int:
    """The number of global batches of an epoch."""
    return -(-len(source) // settings.batch_size)


def training_batches(
    source: Source,
    gather: HistoryGather,
    settings: Training,
    device: torch.device,
    seed: int,
    epoch: int,
    worker: Worker = SINGLE,
    skip: int = 0,
) -> Iterator[tuple[Batch, int]]:
    """A worker's share of each global batch of an epoch (perhaps an empty one of the last), and the size of the global batch.

    The order follows from (seed, epoch, number of examples) alone. `skip` leaves out the first so many global batches. What the
    settings hide of the histories is drawn for the global batch, so that any number of workers sees the same.
    """
    blocks, draw = shuffled(source, device, seed, epoch, skip * settings.batch_size), torch.Generator(device)
    mine = slice(worker.rank, None, worker.world_size)
    for step, rows in enumerate(cut(blocks, settings.batch_size), start=skip):
        if settings.cut_histories or settings.hidden_clicks:
            draw.manual_seed(int(np.random.SeedSequence((seed, epoch, step)).generate_state(1)[0]))
        end = _cut_back(rows, gather, settings.cut_histories, draw) if settings.cut_histories else rows.end
        batch = _batch(rows.take(mine), gather, end[mine])
        if settings.hidden_clicks:
            hidden = torch.rand(len(rows.user), gather.length, device=device, generator=draw)[mine] < settings.hidden_clicks
            batch.history.masked_fill_(hidden, 0)
        yield batch, len(rows.user)


def _cut_back(rows: Columns, gather: HistoryGather, share: float, draw: torch.Generator) -> Tensor:
    """The ends of histories, of which a share moves back by any number of clicks, up to all: int64 [rows]."""
    chosen, back = torch.rand(2, len(rows.user), device=rows.end.device, generator=draw, dtype=torch.float64)
    clicks = rows.end - gather.offsets[rows.user.long()]
    return rows.end - torch.where(chosen < share, (back * (clicks + 1)).long(), 0)


def _batch(rows: Columns, gather: HistoryGather, end_B: Tensor) -> Batch:
    user_B = rows.user.long()
    history, history_at = gather(user_B, end_B)
    return Batch(
        user_B, rows.at, history, history_at, rows.context.long(), rows.item.long()[:, None], rows.clicked.float()[:, None]
    )


def _split_rows(pieces: Pieces, split: Split) -> tuple[tuple[int, int, int], int]:
    """The rows behind each split, and the time (UTC ms) at which validation begins."""
    shown_at = np.concatenate([np.empty(0, np.int64), *(piece["shown_at"].to_numpy() for piece in pieces(["shown_at"]))])
    if (shown_at[1:] < shown_at[:-1]).any():
        raise DataError("interactions: the rows aren't in the order of shown_at; `rayrec ingest` puts them so")
    rows = len(shown_at)
    times = split_times(shown_at, split) if rows else (0, 0)
    trained, validated = (int(row) for row in np.searchsorted(shown_at, times))
    for name, size in (("training", trained), ("validation", validated - trained), ("test", rows - validated)):
        if size == 0:
            raise DataError(
                f"interactions: {rows} rows can't be split by time into training, validation and test: none is left for {name} "
                f"(split.validation={split.validation}, split.test={split.test}; rows of one moment stay together); give more rows "
                "or other shares"
            )
    return (trained, validated, rows), times[0]


def _distinct(pieces: Pieces, column: str, rows: int) -> pa.Array:
    """The different values of a column in the first so many rows."""
    found, left = [], rows
    for piece in pieces([column]):
        found.append(piece[column].slice(0, left).unique())
        left -= min(left, piece.num_rows)
        if not left:
            break
    return pa.chunked_array(found).unique()


def _clicks(pieces: Pieces, user_ids: pa.Array, item_ids: pa.Array) -> ClickHistory:
    columns = ["user_id", "video_id", "shown_at", "clicked"]
    clicked = [piece.filter(piece["clicked"]) for piece in pieces(columns)]
    user, item, at = (
        np.concatenate([np.empty(0, kind), *(number(piece) for piece in clicked)])
        for kind, number in (
            (np.int32, lambda piece: indices_of(piece["user_id"], user_ids)),
            (np.int32, lambda piece: indices_of(piece["video_id"], item_ids)),
            (np.int64, lambda piece: piece["shown_at"].to_numpy()),
        )
    )
    return ClickHistory.of(user, item, at, len(user_ids))


def _refuse_one_label(clicked: int, rows: int) -> None:
    if clicked in (0, rows):
        kind = "none" if clicked == 0 else "every one"
        raise DataError(
            f"interactions: of the {rows} impressions of the training split {kind} was clicked, so that there is nothing to learn; "
            "the log must hold what was shown and not clicked beside what was clicked"
        )


def _everyone(users: pa.Table | None, logged: pa.Array) -> pa.Table:
    """The users table with a row for everybody in the log; side columns of those it lacked are null."""
    table = pa.table({"user_id": logged.cast(pa.string())})
    if users is None:
        return table
    missing = table.filter(pa.array(~_stands_in(table["user_id"], users["user_id"])))
    return pa.concat_tables([users, missing], promote_options="default")


def _stands_in(values: pa.ChunkedArray, others: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return pa.compute.is_in(values, value_set=others.unique()).to_numpy(zero_copy_only=False)


def _lookup(items: pa.Table, other: pa.Table, columns: list[str]) -> pa.Table:
    rows = pa.compute.index_in(items["video_id"], value_set=other["video_id"].combine_chunks())
    for name in columns:
        items = items.append_column(name, other[name].combine_chunks().take(rows.combine_chunks()))
    return items
