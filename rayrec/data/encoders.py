"""What is learned of users and items from the training part of a log, and the tables that follow from it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Ranker
from rayrec.data.context import ContextEncoder
from rayrec.data.errors import DataError
from rayrec.data.fields import FieldEncoder, FieldTable, refuse_not_finite
from rayrec.data.shards import Known
from rayrec.data.split import SplitBy
from rayrec.errors import did_you_mean
from rayrec.tables import MAPS, MODALITIES, TEXT, spec_of, typed

LEFT_OUT = " (`ingest` leaves out columns of structs, maps and nested lists)"


class Encoders(Protocol):
    """What a trained ranker has: a `Scorer` is one."""

    user_encoder: FieldEncoder
    item_encoder: FieldEncoder
    context_encoder: ContextEncoder


@dataclass(frozen=True)
class FittedEncoders:
    """The encoders of users, items and context, and the tables that they make."""

    user_encoder: FieldEncoder
    item_encoder: FieldEncoder
    context_encoder: ContextEncoder
    users: FieldTable
    items: FieldTable
    published_at: np.ndarray  # int64 [I], UTC ms, 0 where it is unknown

    @classmethod
    def fit(
        cls,
        settings: Ranker,
        items: pa.Table,
        users: pa.Table | None,
        seen_items: np.ndarray,
        known: Known,
        context: ContextEncoder,
        split_by: SplitBy = "time",
        base: "Encoders | None" = None,
    ) -> "FittedEncoders":
        """Fit on what the training split has. `items` is the joined item table, of which `seen_items` marks the rows of that split.

        `users` has the side columns of users, and `known` all users. With a `base`, new values are added to its encoders.

        Raises `DataError` for a catalog, users or settings that no ranker can be trained on.
        """
        users = with_side_columns(known.ids, users)
        fields = item_columns(settings, items)
        refuse_not_finite(users, "user_id", users.column_names)
        refuse_not_finite(items, "video_id", [*fields, *([MAPS] if MAPS in items.column_names else [])])
        user_encoder = FieldEncoder.fit(users, "user_id", users.column_names, known.trained)
        item_encoder = FieldEncoder.fit(items, "video_id", fields, seen_items)
        if base is not None:
            user_encoder, item_encoder = base.user_encoder.grown(user_encoder), base.item_encoder.grown(item_encoder)
            context = base.context_encoder.grown(context)
        tables = user_encoder.encode(users), item_encoder.encode(items)
        return cls(user_encoder, item_encoder, context, *tables, published_at(items, split_by))


def published_at(items: pa.Table, split_by: SplitBy = "time") -> np.ndarray:
    """When each item was published, item 0 in front: UTC ms, int64 [I], 0 where it is unknown.

    A log that is not split by time has made-up times, which say nothing about what was published before: all are unknown.
    """
    if "published_at" not in items.column_names or split_by != "time":
        return np.zeros(items.num_rows + 1, np.int64)
    return np.append(0, items["published_at"].cast(pa.int64()).fill_null(0).to_numpy()).astype(np.int64)


def item_columns(settings: Ranker, items: pa.Table) -> list[str]:
    """The columns of the joined item table that the ranker uses as fields. A column without any value is left out.

    Raises `DataError` for a field that no catalog has, and for a modality of which there is no vector.
    """
    optional = [*spec_of("catalog").schema.names, "topics"]
    for name in settings.item_fields:
        if name not in items.column_names and name not in optional:
            near = did_you_mean(name, [*items.column_names, *optional])
            raise DataError(f"ranker.item_fields: the catalog has no column {name!r}{near}{LEFT_OUT if not near else ''}")
    filled = [name for name in items.column_names if items[name].null_count < items.num_rows]
    for name in settings.modalities:
        if name not in filled:
            known = ", ".join(modality for modality in MODALITIES if modality in filled)
            raise DataError(
                f"ranker.modalities: no video has a vector {name!r} in `vectors` (known: {known or 'none'}); leave it out, or "
                "run `rayrec extract CONFIG` and `rayrec reduce CONFIG` to make it"
            )
    if settings.reads_maps and MAPS not in filled:
        raise DataError(
            "ranker.user_kernels: no video has feature maps in `vectors`; set features.image.maps={} and run `rayrec extract "
            "CONFIG` and `rayrec reduce CONFIG` to make them, or choose a ranker without user kernels"
        )
    wanted = ["video_id", *settings.item_fields, *(["topics"] if settings.topics else []), *settings.modalities]
    return [name for name in dict.fromkeys(wanted) if name in filled]


def all_user_ids(users: pa.Table | None, logged: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The ids of the users of the table and, behind them, of others in the log, in the order in which they come up there."""
    listed = [] if users is None else users["user_id"].cast(TEXT).chunks
    return pc.unique(pa.chunked_array([*listed, *pa.chunked_array(logged).cast(TEXT).chunks], TEXT))


def with_side_columns(user_ids: pa.Array, users: pa.Table | None) -> pa.Table:
    """A row for each of the ids, with which `users` begins; the side columns of users that it lacks are null."""
    if users is None:
        return pa.table({"user_id": user_ids})
    missing = pa.table({"user_id": user_ids.slice(users.num_rows)})
    return pa.concat_tables([typed("users", users), missing], promote_options="default")
