"""Reads the ratings of a log, and what is known of its users and items."""

from typing import Literal

import numpy as np
import pyarrow as pa

from rayrec.collaborative.facts import facts_of
from rayrec.collaborative.ratings import RatingData, Ratings
from rayrec.config import Split
from rayrec.data.loading import TableReader
from rayrec.data.pieces import LogPieces
from rayrec.data.shards import EncodedLog
from rayrec.data.vocabulary import indices_of

RATING = "rating"
ITEM_FIELDS = ("tags", "primary_class", "secondary_class", "author_id", "published_at", "duration_s")

HeldOut = Literal["validation", "test"]


def read_ratings(reader: TableReader, pieces: LogPieces, log: EncodedLog, split: Split, held_out: HeldOut) -> RatingData:
    """The ratings before the validation or before the test split, and those of that split. All are in memory: 12 bytes each.

    A model is chosen on the validation split. What is measured on the test split then learns from all that came before it.
    """
    found = pieces.split(split)
    first, last = (found.train_end, found.validation_end) if held_out == "validation" else (found.validation_end, found.rows)
    users, items = log.users.ids, log.items.ids
    everything = [_triples(piece.read(pieces.fs, ["user_id", "video_id", RATING]), users, items) for piece in pieces.pieces]
    user_N, item_N, rating_N = (np.concatenate(column) for column in zip(*everything, strict=True))
    train, others = (Ratings.of(user_N[rows], item_N[rows], rating_N[rows]) for rows in (slice(first), slice(first, last)))
    people = reader.read_if_there("users")
    columns = [] if people is None else [name for name in people.column_names if name != "user_id"]
    return RatingData(
        train,
        others,
        facts_of(people, "user_id", columns, users),
        facts_of(reader.read("catalog"), "video_id", ITEM_FIELDS, items),
    )


def _triples(table: pa.Table, users: pa.Array, items: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, item and rating of each row; NaN where it has no rating."""
    rated = RATING in table.column_names
    rating_N = table[RATING].to_numpy(zero_copy_only=False) if rated else np.full(table.num_rows, np.nan, np.float32)
    return indices_of(table["user_id"], users, 1), indices_of(table["video_id"], items, 1), rating_N
