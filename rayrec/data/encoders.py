"""Everything that is fitted on a log before its rows become examples."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Ranker, Split
from rayrec.data.context import ContextEncoder
from rayrec.data.examples import LogEncoder
from rayrec.data.fields import DataError, FieldEncoder, FieldTable, indices_of, refuse_not_finite
from rayrec.data.history import ClickHistory
from rayrec.data.split import LogSplit, split_log
from rayrec.errors import did_you_mean
from rayrec.tables import MODALITIES, spec_of

# Reads the given columns of the log in time order, piece by piece; it may be called more than once.
LogReader = Callable[[list[str]], Iterable[pa.Table]]


@dataclass(frozen=True)
class FittedEncoders:
    """The encoders of users, items and context, the tables that they make, everybody's clicks, and where the log is cut."""

    user_encoder: FieldEncoder
    item_encoder: FieldEncoder
    context_encoder: ContextEncoder
    users: FieldTable
    items: FieldTable
    clicks: ClickHistory
    split: LogSplit
    log_encoder: LogEncoder

    @classmethod
    def fit(cls, read_log: LogReader, items: pa.Table, users: pa.Table | None, settings: Ranker, split: Split) -> "FittedEncoders":
        """Fit on the training part of the log. `items` is the joined item table, `users` has the side columns of users.

        Raises `DataError` for a log, a catalog or settings that no ranker can be trained on.
        """
        parts = split_log((piece["shown_at"].to_numpy() for piece in read_log(["shown_at"])), split)
        users = _all_users(users, _distinct_values(read_log, "user_id", parts.rows))
        fields = item_columns(settings, items)
        refuse_not_finite(users, "user_id", users.column_names)
        refuse_not_finite(items, "video_id", fields)
        seen_users, seen_items = (
            _is_in(table[name], _distinct_values(read_log, name, parts.train_end))
            for table, name in ((users, "user_id"), (items, "video_id"))
        )
        user_encoder = FieldEncoder.fit(users, "user_id", users.column_names, seen_users)
        item_encoder = FieldEncoder.fit(items, "video_id", fields, seen_items)
        context_encoder = ContextEncoder.fit(
            settings.context_fields, lambda name: _distinct_values(read_log, name, parts.train_end)
        )
        user_table, item_table = user_encoder.encode(users), item_encoder.encode(items)
        user_ids, item_ids = pa.array(user_table.ids, pa.string()), pa.array(item_table.ids, pa.string())
        clicks = _clicks(read_log, user_ids, item_ids)
        _refuse_one_label(int((clicks.times < parts.validation_at).sum()), parts.train_end)
        log_encoder = LogEncoder(user_ids, item_ids, context_encoder, clicks)
        return cls(user_encoder, item_encoder, context_encoder, user_table, item_table, clicks, parts, log_encoder)


def item_columns(settings: Ranker, items: pa.Table) -> list[str]:
    """The columns of the joined item table that the ranker uses as fields. A column without any value is left out.

    Raises `DataError` for a field that no catalog has, and for a modality of which there is no vector.
    """
    optional = [*spec_of("catalog").schema.names, "topics"]
    for name in settings.item_fields:
        if name not in items.column_names and name not in optional:
            near = did_you_mean(name, [*items.column_names, *optional])
            raise DataError(f"ranker.item_fields: the catalog has no column {name!r}{near}")
    filled = [name for name in items.column_names if items[name].null_count < items.num_rows]
    for name in settings.modalities:
        if name not in filled:
            known = ", ".join(modality for modality in MODALITIES if modality in filled)
            raise DataError(
                f"ranker.modalities: no video has a vector {name!r} in `vectors` (known: {known or 'none'}); leave it out, or "
                "run `rayrec extract` and `rayrec reduce` to make it"
            )
    wanted = ["video_id", *settings.item_fields, *(["topics"] if settings.topics else []), *settings.modalities]
    return [name for name in wanted if name in filled]


def _distinct_values(read_log: LogReader, column: str, rows: int) -> pa.Array:
    """The distinct values of a column in the first `rows` rows of the log."""
    found, left = [], rows
    for piece in read_log([column]):
        found.append(piece[column].slice(0, left).unique())
        left -= min(left, piece.num_rows)
        if not left:
            break
    return pa.chunked_array(found).unique()


def _clicks(read_log: LogReader, user_ids: pa.Array, item_ids: pa.Array) -> ClickHistory:
    pieces = read_log(["user_id", "video_id", "shown_at", "clicked"])
    clicked = [piece.filter(piece["clicked"]) for piece in pieces]
    users = [np.empty(0, np.int32), *(indices_of(piece["user_id"], user_ids) for piece in clicked)]
    items = [np.empty(0, np.int32), *(indices_of(piece["video_id"], item_ids) for piece in clicked)]
    times = [np.empty(0, np.int64), *(piece["shown_at"].to_numpy() for piece in clicked)]
    return ClickHistory.of(np.concatenate(users), np.concatenate(items), np.concatenate(times), len(user_ids))


def _refuse_one_label(clicked: int, rows: int) -> None:
    if clicked in (0, rows):
        kind = "none" if clicked == 0 else "every one"
        raise DataError(
            f"interactions: of the {rows} impressions of the training split {kind} was clicked, so there is nothing to learn; "
            "the log must contain both impressions that were clicked and impressions that were not"
        )


def _all_users(users: pa.Table | None, logged: pa.Array) -> pa.Table:
    """The users table with a row for everybody in the log; the side columns of users whom it lacked are null."""
    table = pa.table({"user_id": logged.cast(pa.string())})
    if users is None:
        return table
    missing = table.filter(pa.array(~_is_in(table["user_id"], users["user_id"])))
    return pa.concat_tables([users, missing], promote_options="default")


def _is_in(values: pa.ChunkedArray, others: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Which of the values are among the others: bool [values]."""
    return pc.is_in(values, value_set=others.unique()).to_numpy(zero_copy_only=False)
