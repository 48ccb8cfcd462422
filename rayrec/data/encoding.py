"""Encodes a log into shards, step by step; each step reads and writes files, so that any process can do it.

    part files --sort_piece--> pieces: rows by shard, with a piece's own numbers for ids
                      ids of all pieces --number_ids--> the indices of users, items and context values
    pieces --write_shard--> shards

A piece's dictionary has each id once. The indices of all ids are found from these dictionaries, so that the many rows of a log are
only ever compared as numbers.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
from pydantic import TypeAdapter

from rayrec.config.goals import WATCH_S, WATCH_SHARE
from rayrec.data.blocks import block_indices
from rayrec.data.context import FROM_TIME, POSITION, ContextEncoder, columns_of, value_of_time
from rayrec.data.errors import refuse_nested
from rayrec.data.goals import LabelRule, label_columns, numbers_of, shares_watched
from rayrec.data.history import DELIVERED_AT, ClickHistory, click_times, times_of_requests
from rayrec.data.pages import Pages
from rayrec.data.pieces import LogPiece, refuse_disorder
from rayrec.data.popularity import DailyCounts
from rayrec.data.shards import (
    CLICKS,
    DAILY_COUNTS,
    KNOWN,
    Known,
    clicks_file,
    example_schema,
    examples_file,
    label_column,
    pages_file,
)
from rayrec.data.split import LogSplit
from rayrec.data.vocabulary import value_texts
from rayrec.tables import TEXT
from rayrec.workspace.files import read_whole, to_json, write_whole, written_whole

IDS_AT_ONCE = 5_000_000  # entries of dictionaries that are numbered together
IDS = ("user_id", "video_id")
REQUEST = "request_id"


@dataclass(frozen=True)
class EncodingJob:
    """What all steps know: the folder of the shards, how the log is cut, and the context fields."""

    fs: pafs.FileSystem
    folder: str
    split: LogSplit
    blocks: int  # of the training split
    shards: int
    context_fields: list[str]
    pages: bool = False  # whether to write the pages of the training split
    rules: Sequence[LabelRule] = ()  # of the columns from which goals are learned

    @property
    def sections(self) -> int:
        """The blocks of the training split, validation and test."""
        return self.blocks + 2

    @property
    def named(self) -> list[str]:
        """The columns of the log whose values get numbers."""
        return [*IDS, *columns_of(self.context_fields)]

    @property
    def labels(self) -> list[str]:
        """The columns of the log, or made of it, from which goals are learned."""
        return label_columns(self.rules)

    def piece_path(self, piece: int, kind: str) -> str:
        return f"{self.folder}/pieces/{piece:05}.{kind}"


@dataclass(frozen=True)
class PieceFacts:
    """What is known of a sorted piece."""

    sizes: list[int]  # the rows of each section
    labels: list[bool]  # those of its training rows
    requests: bool  # whether it says for any row which request it answered; looked at only where pages are wanted
    known: list[str]  # the labels of goals of which one of its training rows has a value


PIECE_FACTS = TypeAdapter(PieceFacts)


# --- pieces -----------------------------------------------------------------------------------------------------------------------


def sort_piece(job: EncodingJob, piece: LogPiece) -> PieceFacts:
    """Write the rows of a piece by shard, and the dictionaries of their ids. What an earlier run has done is not done again.

    Raises `DataError` for rows out of time order, and for a context field that holds more than one value.
    """
    done = job.piece_path(piece.number, "json")
    if job.fs.get_file_info(done).is_file:
        return PIECE_FACTS.validate_json(read_whole(job.fs, done))
    labelled = {WATCH_S if name == WATCH_SHARE else name for name in job.labels} | set(job.labels)
    asked = ["shown_at", DELIVERED_AT, "clicked", "clicked_at", *([REQUEST] if job.pages else [])]
    log = piece.read(job.fs, [*job.named, *asked, *sorted(labelled)])
    at = log["shown_at"].to_numpy()
    refuse_disorder(not (at[1:] < at[:-1]).any())
    trained_rows = min(max(job.split.train_end - piece.first, 0), piece.rows)
    columns: dict[str, np.ndarray] = {}
    for number, name in enumerate(job.named):
        columns[f"code_{number}"] = _write_dictionary(job, piece, number, log[name], trained_rows)
    clicked = log["clicked"].to_numpy(zero_copy_only=False).astype(bool)
    section, row = _sections(job, piece)
    if job.pages:
        requests = log[REQUEST].combine_chunks() if REQUEST in log.column_names else pa.nulls(piece.rows, TEXT)
        columns["page"] = requests.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    columns |= {label_column(name): _label(job, log, name) for name in job.labels}
    columns |= {
        "clicked": clicked,
        "at": at,
        "asked_at": times_of_requests(log),
        "made_at": click_times(log),
        "section": section,
        "row": row,
    }
    users = _read_dictionary(job, piece.number, 0)["id"].cast(pa.large_binary()).to_pylist()
    shard_of_user = np.fromiter((zlib.crc32(user) % job.shards for user in users), np.uint16, len(users))
    _write_batches(job.fs, job.piece_path(piece.number, "rows"), columns, shard_of_user[columns["code_0"]], job.shards)
    sizes, labels = np.bincount(section, minlength=job.sections), np.unique(clicked[:trained_rows])
    known = [name for name in job.labels if not np.isnan(columns[label_column(name)][:trained_rows]).all()]
    facts = PieceFacts(sizes.tolist(), labels.tolist(), job.pages and bool((columns["page"] >= 0).any()), known)
    write_whole(job.fs, done, to_json(PIECE_FACTS.dump_python(facts, mode="json")))
    return facts


def _label(job: EncodingJob, log: pa.Table, name: str) -> np.ndarray:
    """A column as labels, float32. A share watched is in seconds until its video is known."""
    found = numbers_of(log[name if name in log.column_names else WATCH_S], name)
    for rule in job.rules:
        if rule.column == name and name in log.column_names:
            rule.check(found)
    return found


def _write_dictionary(job: EncodingJob, piece: LogPiece, number: int, column: pa.ChunkedArray, trained_rows: int) -> np.ndarray:
    """Write the distinct values of a column as texts, and return the place of each row's value among them, int32; -1 for null."""
    refuse_nested(job.named[number], column.type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values = column.combine_chunks().dictionary_encode()
    codes = values.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    texts = value_texts(job.named[number], values.dictionary).cast(TEXT)
    if texts.null_count:  # NaN is no value either
        valid = texts.is_valid().to_numpy(zero_copy_only=False)
        codes = np.append(np.where(valid, np.cumsum(valid) - 1, -1), -1).astype(np.int32)[codes]
        texts = texts.drop_null()
    trained = np.zeros(len(texts) + 1, dtype=bool)  # the last one for null
    trained[codes[:trained_rows]] = True
    table = pa.table({"id": texts, "trained": trained[:-1]}, schema=KNOWN)
    write_arrow(job.fs, job.piece_path(piece.number, f"names-{number}"), table)
    return codes


def _read_dictionary(job: EncodingJob, piece: int, number: int) -> pa.Table:
    with job.fs.open_input_file(job.piece_path(piece, f"names-{number}")) as file:
        return pa.ipc.open_file(file).read_all()


def _sections(job: EncodingJob, piece: LogPiece) -> tuple[np.ndarray, np.ndarray]:
    """The section of each row of a piece, uint16, and its number among the rows of the piece in that section, int32."""
    first, last = piece.first, piece.first + piece.rows
    cuts = np.clip([job.split.train_end, job.split.validation_end], first, last) - first
    section = np.full(piece.rows, job.blocks + 1, np.uint16)
    section[: cuts[1]] = job.blocks
    section[: cuts[0]] = block_indices(first, first + int(cuts[0]), job.blocks) if job.blocks > 1 else 0
    order = np.argsort(section, kind="stable")
    sizes = np.bincount(section, minlength=job.sections)
    row = np.empty(piece.rows, np.int32)
    row[order] = np.arange(piece.rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return section, row


# --- ids --------------------------------------------------------------------------------------------------------------------------


def number_users(job: EncodingJob, pieces: int, listed: pa.Array) -> Known:
    """Number all users: those `listed` first, then others in the order in which they come up in the log. Writes their indices."""
    known, maps = _numbered(job, pieces, 0, listed)
    for piece, codes in enumerate(maps):
        _write_index(job, piece, 0, codes + 1)
    return known


def number_items(job: EncodingJob, pieces: int, catalog_ids: pa.Array) -> Known:
    """Number the videos of the catalog in its order; a video that it lacks has the index 0. Writes the indices."""
    known, maps = _numbered(job, pieces, 1, catalog_ids)
    count = len(catalog_ids)
    for piece, codes in enumerate(maps):
        _write_index(job, piece, 1, np.where(codes < count, codes + 1, 0))
    return Known(known.ids.slice(0, count), known.trained[:count])


def number_context(job: EncodingJob, pieces: int) -> ContextEncoder:
    """Fit the encoder of the context fields to the training rows. Writes the value of each entry of a dictionary."""
    vocabularies = {}
    for number, name in enumerate(job.named[len(IDS) :], start=len(IDS)):
        known, maps = _numbered(job, pieces, number, pa.array([], TEXT))
        trained = np.flatnonzero(known.trained)
        trained = trained[pc.sort_indices(known.ids.take(pa.array(trained))).to_numpy()]
        vocabularies[name] = known.ids.take(pa.array(trained)).to_pylist()
        value = np.zeros(len(known.ids), np.int64)
        value[trained] = 1 + np.arange(len(trained))
        for piece, codes in enumerate(maps):
            _write_index(job, piece, number, value[codes])
    return ContextEncoder(job.context_fields, vocabularies)


def _numbered(job: EncodingJob, pieces: int, number: int, listed: pa.Array) -> tuple[Known, list[np.ndarray]]:
    """All ids of a column, in the order of `listed` and of the log, and for each piece the places of its ids among them."""
    ids, trained, maps = listed, np.zeros(len(listed), dtype=bool), []
    for group in _groups(job, pieces, number):
        together = pa.chunked_array([ids, *(chunk for table in group for chunk in table["id"].chunks)], TEXT)
        encoded = together.combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy()[len(ids) :]
        ids = encoded.dictionary
        trained = np.append(trained, np.zeros(len(ids) - len(trained), dtype=bool))
        trained[codes[np.concatenate([table["trained"].to_numpy(zero_copy_only=False) for table in group]).astype(bool)]] = True
        maps += np.split(codes, np.cumsum([table.num_rows for table in group])[:-1])
    return Known(ids, trained), maps


def _groups(job: EncodingJob, pieces: int, number: int) -> Iterator[list[pa.Table]]:
    """The dictionaries of all pieces for a column, several at a time."""
    group: list[pa.Table] = []
    for piece in range(pieces):
        group.append(_read_dictionary(job, piece, number))
        if sum(table.num_rows for table in group) >= IDS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _write_index(job: EncodingJob, piece: int, number: int, index: np.ndarray) -> None:
    table = pa.table({"index": pa.array(np.append(index, 0), pa.int32())})  # the last one for null
    write_arrow(job.fs, job.piece_path(piece, f"index-{number}"), table)


# --- shards -----------------------------------------------------------------------------------------------------------------------


def write_shard(
    job: EncodingJob, shard: int, sizes: np.ndarray, context: ContextEncoder, durations: np.ndarray | None = None
) -> list[int]:
    """Write a shard from its rows in all pieces. Returns the rows of each section.

    `sizes` has the rows of each piece in each section: int64 [pieces, sections]. `durations` are those of the items, s, if shares
    watched are to be made of seconds.
    """
    path = f"{job.folder}/{examples_file(shard)}"
    if job.fs.get_file_info(path).is_file:  # by a run that was killed
        with job.fs.open_input_file(path) as file:
            reader = pa.ipc.open_file(file)
            return [reader.get_batch(section).num_rows for section in range(job.sections)]
    rows = _rows_of_shard(job, shard, sizes, context)
    _write_clicks(job, shard, rows)
    if job.pages:
        trained = rows["section"] < job.blocks
        pages = Pages.of(*(rows[name][trained] for name in ("user", "item", "at", "clicked", "page")))
        write_arrow(job.fs, f"{job.folder}/{pages_file(shard)}", pages.table)
    daily = DailyCounts.of(rows["user"], rows["item"], rows["at"], rows["clicked"], rows["made_at"])
    write_arrow(job.fs, job.piece_path(shard, DAILY_COUNTS), daily.table)
    if durations is not None:
        share = label_column(WATCH_SHARE)
        rows[share] = shares_watched(rows[share], durations[rows["item"]])
    schema = example_schema(context, job.labels)
    columns = {name: rows[name] for name in schema.names}
    _write_batches(job.fs, path, columns, rows["section"], job.sections, schema)
    return np.bincount(rows["section"], minlength=job.sections).tolist()


def _rows_of_shard(job: EncodingJob, shard: int, sizes: np.ndarray, context: ContextEncoder) -> dict[str, np.ndarray]:
    """The columns of `example_schema`, `section` and `made_at` of all rows of a shard, in time order."""
    parts: dict[str, list[np.ndarray]] = {}
    before = np.cumsum(sizes, axis=0) - sizes  # rows of each section in earlier pieces
    for piece in range(len(sizes)):
        with job.fs.open_input_file(job.piece_path(piece, "rows")) as file:
            batch = pa.ipc.open_file(file).get_batch(shard)
            rows = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}
        for number in range(len(job.named)):
            with job.fs.open_input_file(job.piece_path(piece, f"index-{number}")) as file:
                index = pa.ipc.open_file(file).read_all()["index"].to_numpy()
            rows[f"code_{number}"] = index[rows[f"code_{number}"]]
        if job.pages:  # a request whose impressions are in two pieces is two pages
            page = rows["page"].astype(np.int64)
            rows["page"] = np.where(page < 0, page, piece << 32 | page)
        rows["row"] = rows["row"] + before[piece][rows["section"]].astype(np.int32)
        for name, values in rows.items():
            parts.setdefault(name, []).append(values)
    found = {name: np.concatenate(values) for name, values in parts.items()}
    found["user"], found["item"] = found["code_0"], found["code_1"]
    for number, name in enumerate(columns_of(job.context_fields), start=len(IDS)):
        found[f"context_{name}"] = found[f"code_{number}"].astype(context.kind)
    if POSITION in job.context_fields:
        found[f"context_{POSITION}"][found["section"] >= job.blocks] = context.neutral_position
    for name in set(job.context_fields) & set(FROM_TIME):
        found[f"context_{name}"] = value_of_time(name, found["at"]).astype(context.kind)
    return found


def _write_clicks(job: EncodingJob, shard: int, rows: dict[str, np.ndarray]) -> None:
    """Write the clicks of a shard, and add to its rows how many clicks of their users had been made before."""
    users, local = np.unique(rows["user"], return_inverse=True)
    clicked = rows["clicked"]
    history = ClickHistory.of(local[clicked], rows["item"][clicked], rows["made_at"][clicked], len(users))
    rows["clicks"] = (history.ends(local, rows["asked_at"]) - history.offsets[local]).astype(np.int32)
    user = np.repeat(users, np.diff(history.offsets))
    write_arrow(job.fs, f"{job.folder}/{clicks_file(shard)}", pa.table([user, history.items, history.times], schema=CLICKS))


def write_daily_counts(job: EncodingJob) -> None:
    """Write how often each item was shown and clicked on each day, from the counts of all shards."""
    parts = []
    for shard in range(job.shards):
        with job.fs.open_input_file(job.piece_path(shard, DAILY_COUNTS)) as file:
            parts.append(DailyCounts.of_table(pa.ipc.open_file(file).read_all()))
    write_arrow(job.fs, f"{job.folder}/{DAILY_COUNTS}", DailyCounts.merged(parts).table)


# --- files ------------------------------------------------------------------------------------------------------------------------


def write_arrow(fs: pafs.FileSystem, path: str, table: pa.Table) -> None:
    """Write a table as an Arrow file of which readers see all or nothing."""
    with written_whole(fs, path) as place, fs.open_output_stream(place) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def _write_batches(
    fs: pafs.FileSystem,
    path: str,
    columns: dict[str, np.ndarray],
    batch_of: np.ndarray,
    count: int,
    schema: pa.Schema | None = None,
) -> None:
    """Write columns as an Arrow file of `count` batches; `batch_of` says to which a row belongs, and rows stay in their order."""
    order, sizes = np.argsort(batch_of, kind="stable"), np.bincount(batch_of, minlength=count)
    table = pa.table({name: values[order] for name, values in columns.items()}, schema=schema)
    ends = np.cumsum(sizes)
    with written_whole(fs, path) as place, fs.open_output_stream(place) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        for end, size in zip(ends.tolist(), sizes.tolist(), strict=True):
            writer.write_batch(_batch(table.slice(end - size, size)))


def _batch(rows: pa.Table) -> pa.RecordBatch:
    columns: Sequence[pa.Array] = [column.combine_chunks() for column in rows.columns]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)
