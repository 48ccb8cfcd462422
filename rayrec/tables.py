"""The Arrow schema of every table that one stage writes and another reads, and its validation.

A table is identified by its name: `TABLES[name]` has its columns, its key, the stage that writes it and the rules for its values.
All ids are strings, all times are UTC milliseconds, and all vectors are lists of float32. A column marked `nullable=False` must be
there and have a value in every row. Any other column may be missing and is then filled with nulls.

`validate` refuses a table at its first fault; `screen` splits it into its good rows and its `rejects`. Both use the same rules.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain

import numpy as np
import pyarrow as pa

from rayrec.config import EXTRACTED_MODALITIES, MODALITIES
from rayrec.errors import RayrecError, did_you_mean

TEXT, BYTES = pa.large_string(), pa.large_binary()  # large, because the ids of 67 million rows exceed 2 GiB
TIME, SECONDS, SHARE = pa.int64(), pa.float32(), pa.float32()
VECTOR, IDS = pa.list_(pa.float32()), pa.list_(pa.int32())

# A log without times has others instead, of 1972, when nobody kept logs of videos. They stand for its split: those of the training
# part are in the first PART_MS (ten days) of that year, those of the validation part in the next, those of the test in the third.
PARTS = ("training", "validation", "test")
DRAWN_AT, PART_MS = 63_072_000_000, 864_000_000


MAPS, MAPS_SHAPE = "maps", "maps_shape"  # columns of `features` and `vectors`


@dataclass(frozen=True)
class MapShape:
    """The shape of the feature maps of a cover, which are in one flat vector: stages x `channels` x `side` x `side` numbers."""

    channels: int
    side: int
    kernels: tuple[int, ...]  # how wide the network's own kernels are in each stage
    seen: float  # the side of the square in the middle of the cover that the network saw, as a share of the cover's short side

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Stages, channels, and the places of a map, row by row."""
        return len(self.kernels), self.channels, self.side**2

    @property
    def size(self) -> int:
        stages, channels, places = self.dimensions
        return stages * channels * places

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "MapShape":
        values = json.loads(text)
        return cls(**values | {"kernels": tuple(values["kernels"])})


class TableError(RayrecError):
    """A table does not obey its schema; the message names the table, the column and the row."""


@dataclass(frozen=True)
class TableSpec:
    """The rules of a table. `at_least` has numeric columns and their smallest allowed values."""

    schema: pa.Schema
    stage: str
    key: tuple[str, ...] = ()
    at_least: tuple[tuple[str, float], ...] = ()
    may_be_empty: tuple[str, ...] = ()  # required columns of text in which "" is a value
    extra_columns: bool = False  # whether the user may add columns, which are kept


def _schema(required: dict[str, pa.DataType], optional: dict[str, pa.DataType] | None = None) -> pa.Schema:
    fields = [pa.field(name, kind, nullable=False) for name, kind in required.items()]
    return pa.schema(fields + [pa.field(name, kind) for name, kind in (optional or {}).items()])


TABLES: dict[str, TableSpec] = {
    "catalog": TableSpec(
        _schema(
            {"video_id": TEXT},
            {
                "uri": TEXT,
                "cover_uri": TEXT,  # the publisher's own cover: a picture file or an address; without one, a frame is the cover
                "title": TEXT,
                "tags": pa.list_(TEXT),
                "primary_class": TEXT,
                "secondary_class": TEXT,
                "author_id": TEXT,
                "published_at": TIME,
                "duration_s": SECONDS,
            },
        ),
        stage="ingest",
        key=("video_id",),
        at_least=(("published_at", 0), ("duration_s", 0)),
        extra_columns=True,
    ),
    # A row is an impression: a video that was shown to a user, whether it was clicked or not. Without `clicked_at`, a click counts
    # as made when the video was shown.
    "interactions": TableSpec(
        _schema(
            {"user_id": TEXT, "video_id": TEXT, "shown_at": TIME, "clicked": pa.bool_()},
            {"clicked_at": TIME, "watch_s": SECONDS, "rating": pa.float32(), "request_id": TEXT, "propensity": pa.float64()},
        ),
        stage="ingest",
        at_least=(("shown_at", 0), ("clicked_at", 0), ("watch_s", 0), ("propensity", 0)),
        extra_columns=True,
    ),
    "users": TableSpec(_schema({"user_id": TEXT}), stage="ingest", key=("user_id",), extra_columns=True),
    # Music for the videos, and how many points users gave it. Where a user rated a track again, the latest rating counts.
    "tracks": TableSpec(
        _schema({"track_id": TEXT}, {"uri": TEXT, "title": TEXT, "tags": pa.list_(TEXT), "artist": TEXT}),
        stage="ingest",
        key=("track_id",),
        extra_columns=True,
    ),
    "ratings": TableSpec(
        _schema({"user_id": TEXT, "track_id": TEXT, "rating": pa.float32()}, {"rated_at": TIME}),
        stage="ingest",
        at_least=(("rated_at", 0),),
    ),
    # What the synthetic world knows. Only reports may read it, to show how good any ranker could be.
    "truth_topics": TableSpec(_schema({"video_id": TEXT, "topic": pa.int32()}), stage="ingest", key=("video_id",)),
    "truth_clicks": TableSpec(
        _schema({"request_id": TEXT, "video_id": TEXT, "click_probability": pa.float32()}),
        stage="ingest",
        key=("request_id", "video_id"),
        at_least=(("click_probability", 0),),
    ),
    # For every user and video, if it is first in a page on the log's last day: what a click, seconds and a like are expected to be.
    "truth_preferences": TableSpec(
        _schema({"user_id": TEXT, "video_id": TEXT, "click_probability": SHARE}, {"watch_s": SECONDS, "like_probability": SHARE}),
        stage="ingest",
        key=("user_id", "video_id"),
        at_least=(("click_probability", 0), ("watch_s", 0), ("like_probability", 0)),
    ),
    "features": TableSpec(
        _schema(
            {"video_id": TEXT, "status": TEXT},  # "ok", or "partial" if a modality could not be extracted; `error` says why
            {
                "error": TEXT,
                **dict.fromkeys(EXTRACTED_MODALITIES, VECTOR),
                MAPS_SHAPE: TEXT,  # `MapShape` as JSON, where there are `maps`
                "cover_jpeg": BYTES,
                "duration_s": SECONDS,
                "frames": pa.int32(),
                "fps": pa.float32(),
                "width": pa.int32(),
                "height": pa.int32(),
                "sample_rate": pa.int32(),
                "file_version": TEXT,  # size and time of change of the file; if they change, it is read again
            },
        ),
        stage="extract",
        key=("video_id",),
        at_least=(("duration_s", 0), ("frames", 0)),
    ),
    # The global feature of the private/public network (Hasama & Li).
    "private_public": TableSpec(_schema({"video_id": TEXT, "vector": VECTOR}), stage="private_public", key=("video_id",)),
    # The normalised and reduced vectors of each modality, which topics and rankers read.
    "vectors": TableSpec(
        _schema({"video_id": TEXT}, {**dict.fromkeys(MODALITIES, VECTOR), MAPS_SHAPE: TEXT}), stage="reduce", key=("video_id",)
    ),
    "topics": TableSpec(_schema({"video_id": TEXT, "topics": IDS, "similarity": VECTOR}), stage="topics", key=("video_id",)),
    "topic_centres": TableSpec(
        _schema({"topic": pa.int32(), "centre": VECTOR, "videos": pa.int32()}, {"tags": pa.list_(TEXT)}),
        stage="topics",
        key=("topic",),
    ),
    "tag_vectors": TableSpec(_schema({"tag": TEXT, "vector": VECTOR, "videos": pa.int32()}), stage="topics", key=("tag",)),
    # The joint representation of each video, L2-normalised: what topics were clustered on (Pu et al.).
    "embeddings": TableSpec(_schema({"video_id": TEXT, "vector": VECTOR}), stage="topics", key=("video_id",)),
    # Where each video is in the space of search, L2-normalised.
    "search_vectors": TableSpec(_schema({"video_id": TEXT, "vector": VECTOR}), stage="search_index", key=("video_id",)),
    # What a collaborative model says of each video; without vectors where it has none. A neighbour is a row of this table, counted
    # from 1, and 0 stands for none; `known` says whether the model knows the video, by its clicks or its content.
    "collaborative_items": TableSpec(
        _schema(
            {"video_id": TEXT, "known": pa.bool_(), "neighbours": IDS, "weights": VECTOR}, {"clicked": VECTOR, "candidate": VECTOR}
        ),
        stage="collaborative",
        key=("video_id",),
    ),
    # A user's vector times a track's, plus the mean of all ratings, is the predicted rating. The user "" is one of whom nothing is
    # known.
    "music_tracks": TableSpec(_schema({"track_id": TEXT, "vector": VECTOR}), stage="music", key=("track_id",)),
    "music_users": TableSpec(
        _schema({"user_id": TEXT, "vector": VECTOR}), stage="music", key=("user_id",), may_be_empty=("user_id",)
    ),
    # The features of a track's sound, as `features` has them of a video's; `status` may also be "failed". The patches are those of
    # a log-mel spectrogram, float16 [patches, 96, 64].
    "track_features": TableSpec(
        _schema({"track_id": TEXT, "status": TEXT}, {"error": TEXT, "audio": VECTOR, "patches": BYTES}),
        stage="music",
        key=("track_id",),
    ),
    "predictions": TableSpec(
        _schema(
            {
                "user_id": TEXT,
                "video_id": TEXT,
                "shown_at": TIME,
                "clicked": pa.bool_(),
                "model": TEXT,
                "probability": pa.float32(),
            },
            {"request_id": TEXT},
        ),
        stage="evaluate",
    ),
    "events": TableSpec(
        _schema(
            {"event_id": TEXT, "user_id": TEXT, "video_id": TEXT, "kind": TEXT, "at": TIME},
            {"request_id": TEXT, "watch_s": SECONDS, "arm": TEXT, "context": TEXT}
            | {"position": pa.int32(), "page_number": pa.int32(), "session_id": TEXT, "dwell_s": SECONDS, "draw": TEXT},
        ),
        stage="serve",
        key=("event_id",),
        at_least=(("at", 0), ("watch_s", 0), ("dwell_s", 0)),
    ),
}

TRUTH = ("truth_topics", "truth_clicks", "truth_preferences")  # the tables of what the synthetic world knows

# What could not be read, and why. Every stage may write this table, so it belongs to none. `source` is the file or table that the
# row came from, `row` its number there: in a file of the user's from 1, where a header is row 1, in a table of ours from 0.
REJECTS = TableSpec(_schema({"stage": TEXT, "source": TEXT, "reason": TEXT}, {"row": pa.int64(), "id": TEXT}), stage="")


def spec_of(name: str) -> TableSpec:
    """The rules of a table by its name. Raises `TableError` for an unknown name."""
    if name == "rejects":
        return REJECTS
    if name not in TABLES:
        raise TableError(f"there is no table {name!r}{did_you_mean(name, TABLES)}")
    return TABLES[name]


def empty(name: str) -> pa.Table:
    """The table without rows, with the schema that `conform` returns."""
    return pa.table({field.name: pa.array([], field.type) for field in spec_of(name).schema})


def from_columns(name: str, columns: dict[str, object]) -> pa.Table:
    """A validated table from plain Python or NumPy columns; missing nullable columns become nulls."""
    return validate(name, pa.table({key: pa.array(value) for key, value in columns.items()}))


def conform(name: str, table: pa.Table) -> pa.Table:
    """The table with its columns in the order and types of the schema. Missing nullable columns are filled with nulls.

    Raises `TableError` for a missing required column, an unknown column, or a column that can't be cast to its type.
    """
    spec = spec_of(name)
    unknown = [column for column in table.column_names if column not in spec.schema.names]
    if unknown and not spec.extra_columns:
        raise TableError(f"table {name}: unknown column {unknown[0]!r}{did_you_mean(unknown[0], spec.schema.names)}")
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    for field in spec.schema:
        if field.name not in table.column_names:
            if not field.nullable:
                raise TableError(f"table {name}: column {field.name!r} is missing; it has {', '.join(table.column_names)}")
            columns[field.name] = pa.nulls(table.num_rows, field.type)
            continue
        try:
            columns[field.name] = table[field.name].cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TableError(f"table {name}: column {field.name!r} should be {field.type}: {error}") from error
    columns |= {column: table[column] for column in unknown}
    # `nullable` is a rule for `faults` and not part of the stored type: it must be possible to build a table with faults.
    return pa.table(columns)


def typed(name: str, table: pa.Table) -> pa.Table:
    """Some columns of a table, those that the schema knows in its types; earlier versions wrote narrower ones."""
    known = spec_of(name).schema
    kinds = [known.field(field.name) if field.name in known.names else field for field in table.schema]
    return table.cast(pa.schema([pa.field(kind.name, kind.type) for kind in kinds]))


def faults(name: str, table: pa.Table) -> Iterator[tuple[str, str, np.ndarray]]:
    """Every rule about the values of a conformed table, as (column, reason, mask of the rows that break it)."""
    import pyarrow.compute as pc  # takes 0.07 s, which `rayrec status` can do without

    spec = spec_of(name)
    for field in spec.schema:
        column = table[field.name].combine_chunks()
        if not field.nullable:
            yield field.name, "has no value", _mask(pc.is_null(column))
            if field.type == TEXT and field.name not in spec.may_be_empty:
                yield field.name, "is empty", _mask(pc.equal(column, ""))
        if pa.types.is_floating(field.type):
            yield field.name, "is not a finite number", _mask(pc.invert(pc.is_finite(column)))
        elif pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type):
            bad = np.zeros(len(column), dtype=bool)
            values = pc.list_flatten(column)
            broken = _mask(pc.invert(pc.is_finite(values))) | _mask(pc.is_null(values))
            bad[pc.list_parent_indices(column).to_numpy(zero_copy_only=False)[broken]] = True
            yield field.name, "holds a number that is not finite", bad
    for column_name, floor in spec.at_least:
        yield column_name, f"is below {floor:g}", _mask(pc.less(table[column_name], floor))


def repeats(name: str, table: pa.Table) -> Iterator[tuple[str, str, np.ndarray]]:
    """The rule that keys are unique, in the form of `faults`. It yields nothing for a table without a key."""
    key = list(spec_of(name).key)
    if key:
        numbered = table.select(key).append_column("row", pa.array(np.arange(table.num_rows)))
        first = numbered.group_by(key).aggregate([("row", "min")])["row_min"].to_numpy()
        mask = np.ones(table.num_rows, dtype=bool)
        mask[first] = False
        yield key[-1], f"repeats the key ({', '.join(key)}) of an earlier row", mask


def validate(name: str, table: pa.Table) -> pa.Table:
    """The conformed table. Raises `TableError` that names the first faulty column and row."""
    table = conform(name, table)
    refuse(name, table, chain(faults(name, table), repeats(name, table)))
    return table


def refuse(name: str, table: pa.Table, broken: Iterable[tuple[str, str, np.ndarray]]) -> None:
    """Raise `TableError` for the first of the rules (in the form of `faults`) that a row breaks."""
    for column, reason, mask in broken:
        if mask.any():
            row = int(mask.argmax())
            raise TableError(
                f"table {name}, column {column!r}, row {row}: {table[column][row].as_py()!r} {reason} ({int(mask.sum())} such rows)"
            )


def screen(name: str, table: pa.Table, source: str, stage: str) -> tuple[pa.Table, pa.Table]:
    """Split a table into its good rows (conformed) and a `rejects` table with one row for each bad row.

    Repeated keys are not looked for, because other parts of the table may have them too. `source` is the file that the rows came
    from. Raises `TableError` only for what concerns all rows: missing or unknown columns.
    """
    table = conform(name, table)
    reasons, bad = np.full(table.num_rows, None, dtype=object), np.zeros(table.num_rows, dtype=bool)
    for column, reason, mask in faults(name, table):
        _note(reasons, np.flatnonzero(mask), table, column, reason)
        bad |= mask
    if not bad.any():
        return table, empty("rejects")
    return table.filter(pa.array(~bad)), rejects(
        stage, source, table, bad, list(reasons[bad]), id_column=spec_of(name).schema.names[0]
    )


def _note(reasons: np.ndarray, rows: np.ndarray, table: pa.Table, column: str, reason: str) -> None:
    """Set the reason of those rows that have none yet."""
    for row in rows:
        if reasons[row] is None:
            reasons[row] = sentence(column, table[column][int(row)].as_py(), reason)


def sentence(column: str, value: object, reason: str) -> str:
    """What is wrong with a cell."""
    return f"{column} is empty" if value in (None, "") else f"{column}: {str(value)[:80]!r} {reason}"


def rejects(
    stage: str, source: str, table: pa.Table, bad: np.ndarray, reason: str | list[str], id_column: str, first_row: int = 0
) -> pa.Table:
    """A `rejects` table for the rows of `table` that the mask `bad` selects; they are numbered from `first_row` on."""
    rows = np.flatnonzero(bad)
    return conform(
        "rejects",
        pa.table(
            {
                "stage": pa.array([stage] * len(rows), TEXT),
                "source": pa.array([source] * len(rows), TEXT),
                "reason": pa.array([reason] * len(rows) if isinstance(reason, str) else reason, TEXT),
                "row": pa.array(rows + first_row, pa.int64()),
                "id": table[id_column].take(pa.array(rows)).cast(TEXT),
            }
        ),
    )


def in_words(rejects: pa.Table) -> list[str]:
    """A line for each row of a `rejects` table: file, row and reason. Only `ingest` rejects rows, other stages whole files."""
    lines = []
    for one in rejects.to_pylist():
        row = f", row {one['row']}" if one["stage"] == "ingest" and one["row"] is not None else ""
        lines.append(f"{one['source']}{row}: {one['reason']}")
    return lines


def _mask(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A boolean Arrow array as a NumPy mask, in which null is False."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array.fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
