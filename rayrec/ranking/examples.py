"""The log as compact training examples, split by time, and the batches made of them.

An example is five numbers (user, item, label, time, place in its user's clicks); users, items and histories are joined by index at
batch time, on the device. See `history.py` for why a history can't hold the future.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from rayrec.config import Ranker, Split
from rayrec.ranking.batch import Batch
from rayrec.ranking.fields import FieldEncoder, FieldTable
from rayrec.ranking.history import ClickHistory, HistoryGather
from rayrec.split import split_times


@dataclass(frozen=True)
class Examples:
    """Impressions in time order: 25 bytes each."""

    user: np.ndarray  # int32
    item: np.ndarray  # int32
    clicked: np.ndarray  # bool
    at: np.ndarray  # int64, UTC ms
    end: np.ndarray  # int64, position in the click array behind the last click before `at`

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: slice | np.ndarray) -> "Examples":
        return Examples(self.user[rows], self.item[rows], self.clicked[rows], self.at[rows], self.end[rows])


@dataclass(frozen=True)
class RankingData:
    """All that training and evaluation share: the encoded tables, the clicks, and the examples of each split."""

    users: FieldTable
    items: FieldTable
    user_encoder: FieldEncoder
    item_encoder: FieldEncoder
    clicks: ClickHistory
    train: Examples
    validation: Examples
    test: Examples
    test_log: pa.Table  # the interactions of the test split, row for row


def item_columns(settings: Ranker, items: pa.Table) -> list[str]:
    """The columns of the joined item table that the ranker uses as fields; one without any value is left out."""
    wanted = ["video_id", *settings.item_fields, *(["topics"] if settings.topics else []), *settings.modalities]
    return [name for name in wanted if name in items.column_names and items[name].null_count < items.num_rows]


def prepare(interactions: pa.Table, items: pa.Table, users: pa.Table | None, settings: Ranker, split: Split) -> RankingData:
    """Encode and split. `items` is the catalog with its topics and vectors joined (`join_items`), `users` has the side columns.

    Raises `ValueError` when the log is too short to be split in three.
    """
    interactions = interactions.sort_by("shown_at")
    shown_at = interactions["shown_at"].to_numpy().copy()  # Arrow's memory is read-only, torch wants its own
    validation_at, test_at = split_times(shown_at, split) if len(shown_at) else (0, 0)
    ends = np.searchsorted(shown_at, [validation_at, test_at])
    if not 0 < ends[0] < ends[1] < len(shown_at):
        raise ValueError(
            f"interactions: {len(shown_at)} rows can't be split by time into train, validation and test; give more, or set `split`"
        )
    trained = interactions.slice(0, ends[0])
    users = _everyone(users, interactions)
    user_encoder = FieldEncoder.fit(users, "user_id", users.column_names, _stands_in(users["user_id"], trained["user_id"]))
    item_encoder = FieldEncoder.fit(
        items, "video_id", item_columns(settings, items), _stands_in(items["video_id"], trained["video_id"])
    )
    user_table, item_table = user_encoder.encode(users), item_encoder.encode(items)
    user, item = user_table.rows_of(interactions["user_id"]), item_table.rows_of(interactions["video_id"])
    clicked = interactions["clicked"].to_numpy(zero_copy_only=False).astype(bool)
    clicks = ClickHistory.of(user[clicked], item[clicked], shown_at[clicked], len(user_table.ids))
    examples = Examples(user.astype(np.int32), item.astype(np.int32), clicked, shown_at, clicks.ends(user, shown_at))
    return RankingData(
        user_table,
        item_table,
        user_encoder,
        item_encoder,
        clicks,
        train=examples.take(slice(0, ends[0])),
        validation=examples.take(slice(ends[0], ends[1])),
        test=examples.take(slice(ends[1], None)),
        test_log=interactions.slice(ends[1]),
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
    examples: Examples, gather: HistoryGather, batch_size: int, device: torch.device, order: np.ndarray | None = None
) -> Iterator[Batch]:
    """Batches with one candidate each (N=1), in the given order of examples, or in time order."""
    user, item, at, end = (
        torch.from_numpy(column).to(device) for column in (examples.user, examples.item, examples.at, examples.end)
    )
    label = torch.from_numpy(examples.clicked).to(device, torch.float32)
    rows = torch.arange(len(examples), device=device) if order is None else torch.from_numpy(order).to(device)
    for chunk in rows.split(batch_size):
        user_B = user[chunk].long()
        history, history_at = gather(user_B, end[chunk])
        yield Batch(user_B, at[chunk], history, history_at, item[chunk].long()[:, None], label[chunk][:, None])


def _everyone(users: pa.Table | None, interactions: pa.Table) -> pa.Table:
    """The users table with a row for everybody in the log; side columns of those it lacked are null."""
    logged = pa.table({"user_id": interactions["user_id"].unique().cast(pa.string())})
    if users is None:
        return logged
    missing = logged.filter(pa.array(~_stands_in(logged["user_id"], users["user_id"])))
    return pa.concat_tables([users, missing], promote_options="default")


def _stands_in(values: pa.ChunkedArray, others: pa.ChunkedArray) -> np.ndarray:
    return pa.compute.is_in(values, value_set=others.unique()).to_numpy(zero_copy_only=False)


def _lookup(items: pa.Table, other: pa.Table, columns: list[str]) -> pa.Table:
    rows = pa.compute.index_in(items["video_id"], value_set=other["video_id"].combine_chunks())
    for name in columns:
        items = items.append_column(name, other[name].combine_chunks().take(rows.combine_chunks()))
    return items
