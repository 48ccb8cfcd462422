"""The steps from the pieces of a source to the part files of a table. Each is a function that any process can do.

read_piece        a piece -> screened rows in runs: in time order for a log; split by key for a table with a key, and by user for
                  a log without times
draw_times        the runs of one partition of a log without times -> the same with times, in their order
reject_repeats    the runs of one partition -> the same without the rows whose key an earlier row has
read_part         a part file of the version before -> a run
write_range       a range of time, from all runs of the log -> one part file
write_partition   the runs of one partition -> part files
"""

import functools
import logging
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec import tables
from rayrec.config import ClickRule
from rayrec.datasets.log_rows import mark_clicks
from rayrec.datasets.runs import PART, ROW, Part, Record, Run, read_run, side_facts, write_run, write_sorted_run
from rayrec.datasets.screening import SourceTable, reject_out_of_range, reject_unknown, resolve_uris
from rayrec.datasets.side_columns import Facts, cast
from rayrec.datasets.source import Damaged, Limits, Piece
from rayrec.datasets.time_order import TimeRange, in_time_order
from rayrec.datasets.timeless import drawn_times
from rayrec.tables import TEXT
from rayrec.workspace.parts import read_checked, write_part

PARTS_PER_PARTITION = 1000
LOG_S = 10.0  # between two lines about the progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """A table that is being made: where, and by which rules."""

    name: str
    fs: pafs.FileSystem
    folder: str  # of the version
    limits: Limits
    partitions: int = 1
    media_root: str | None = None
    confined: bool = False
    catalog: tuple[str, ...] = ()  # for a log: the catalog's part files; for ratings: those of the tracks;
    lost: tuple[str, ...] = ()  # and the runs of their rejects
    click_rule: ClickRule | None = None
    rating_range: tuple[float, float] | None = None

    @property
    def is_log(self) -> bool:
        """Whether its rows are put in the order of time."""
        return self.name == "interactions"

    @property
    def key(self) -> str | None:
        """The column whose values are unique."""
        return next(iter(tables.spec_of(self.name).key), None)

    def run_path(self, step: str, number: int, run: int) -> str:
        return f"{self.folder}/runs/{self.name}-{step}-{number:06d}-{run:06d}.arrow"


@dataclass
class _Runs:
    """The runs that one piece of work writes."""

    table: Table
    step: str
    number: int
    written: list[Run] = field(default_factory=list)
    rejects: list[Run] = field(default_factory=list)
    columns: dict[str, Facts] = field(default_factory=dict)

    _held: list[SourceTable] = field(default_factory=list)  # blocks that will be one run

    def path(self) -> str:
        return self.table.run_path(self.step, self.number, len(self.written) + len(self.rejects))

    def add(self, block: SourceTable) -> None:
        """Write the rejects of a block, and its good rows when there are enough of them."""
        table, limits = self.table, self.table.limits
        if rejects := [rejected for rejected in block.rejected if rejected.num_rows]:
            self.rejects.append(write_run(table.fs, self.path(), block.source, pa.concat_tables(rejects), limits.batch_rows))
        if table.is_log or not block.table.num_rows:
            for name, facts in side_facts(table.name, block.table).items():
                self.columns[name] = self.columns.get(name, Facts()) + facts
        if block.table.num_rows:
            if self._held and not self._goes_with_the_held(block):
                self.flush()
            self._held.append(block)

    def _goes_with_the_held(self, block: SourceTable) -> bool:
        last, rows = self._held[-1], sum(held.table.num_rows for held in self._held)
        alike = block.table.schema.equals(last.table.schema) and (self.table.is_log or block.source == last.source)
        return alike and rows + block.table.num_rows <= self.table.limits.block_rows

    def flush(self) -> None:
        """Write what is held."""
        table, held, self._held = self.table, self._held, []
        if not held:
            return
        rows, source = pa.concat_tables([block.table for block in held]), held[0].source
        if table.is_log and PART not in rows.column_names:
            self.written.append(write_sorted_run(table.fs, self.path(), source, rows, table.limits.batch_rows))
            return
        if table.key:
            rows = rows.append_column(ROW, pa.array(np.concatenate([block.rows for block in held]), pa.int64()))
        for partition, share in _partitioned(rows, table.key or "user_id", table.partitions):
            self.add_partition(source, partition, share)

    def add_partition(self, source: str, partition: int, rows: pa.Table) -> None:
        facts = {"partition": partition, "columns": side_facts(self.table.name, rows)}
        self.written.append(write_run(self.table.fs, self.path(), source, rows, self.table.limits.batch_rows, **facts))


def read_piece(table: Table, number: int, piece: Piece) -> Record:
    try:
        return _read_piece(table, number, piece, careful=False)
    except Damaged:  # what was written is written over
        return _read_piece(table, number, piece, careful=True)


def _read_piece(table: Table, number: int, piece: Piece, careful: bool) -> Record:
    runs, read = _Runs(table, "read", number), 0
    remarks: dict[str, None] = {}
    logged = time.monotonic()
    for block in piece.blocks(table.limits, careful):
        read += block.read
        remarks |= dict.fromkeys(block.remarks)
        for column in ("uri", "cover_uri"):
            if table.media_root and column in block.table.column_names:
                resolve_uris(block, column, table.media_root, table.confined, table.key or "")
        rule = None if "clicked" in block.table.column_names else table.click_rule
        if rule:  # is followed when the durations of videos are known
            block.table = block.table.append_column("clicked", pa.array(np.zeros(block.table.num_rows, dtype=bool)))
        block.screen(table.name)
        if table.is_log:
            reject_unknown(block, "video_id", _catalog(table)[0], lambda: _lost_ids(table), "the catalog")
        if table.name == "ratings":
            reject_unknown(block, "track_id", _track_ids(table), lambda: _lost_ids(table), "the tracks")
            reject_out_of_range(block, "rating", table.rating_range)
        if rule:
            mark_clicks(block, rule, functools.partial(_durations, table))
        runs.add(block)
        if time.monotonic() - logged > LOG_S:
            log.info("%s: %s rows read so far", block.source, f"{read:,}")
            logged = time.monotonic()
    runs.flush()
    written = sum(run.rows for run in runs.written)
    return Record("", read, written, runs.written, runs.rejects, list(remarks), runs.columns)


def read_part(table: Table, number: int, path: str, digest: str) -> Record:
    """A part file of the version before as a run. Raises `WorkspaceError` if it is damaged."""
    rows = read_checked(table.fs, path, digest, table.name)
    return Record("", runs=[write_sorted_run(table.fs, table.run_path("merged", number, 0), path, rows, table.limits.batch_rows)])


def draw_times(table: Table, partition: int, runs: list[Run], seed: int) -> Record:
    """The partition has all rows of its users."""
    keys = pa.concat_tables([read_run(table.fs, run.path, ["user_id", "video_id", PART]) for run in runs])
    times = drawn_times(keys["user_id"], keys["video_id"], keys[PART].to_numpy(), seed)
    written: list[Run] = []
    for run, at in zip(runs, np.split(times, np.cumsum([run.rows for run in runs])[:-1]), strict=True):
        rows = read_run(table.fs, run.path).drop_columns([PART])
        rows = rows.set_column(rows.schema.get_field_index("shown_at"), "shown_at", pa.array(at))
        path = table.run_path("drawn", partition, len(written))
        written.append(write_sorted_run(table.fs, path, run.source, rows, table.limits.batch_rows))
    return Record("", runs=written)


def reject_repeats(table: Table, partition: int, runs: list[Run]) -> Record:
    """The first row with a key stays."""
    assert table.key
    keys = pa.concat_tables([read_run(table.fs, run.path, [table.key]) for run in runs])
    kept, left = [], _Runs(table, "compared", partition)
    for _, reason, repeated in tables.repeats(table.name, keys):
        for run, bad in zip(runs, np.split(repeated, np.cumsum([run.rows for run in runs])[:-1]), strict=True):
            if not bad.any():
                kept.append(run)
                continue
            numbered = read_run(table.fs, run.path)
            block = SourceTable(run.source, numbered, numbered[ROW].to_numpy())
            sentence = _sentence(block, table.key, reason)
            block.reject({int(row): sentence(int(row)) for row in np.flatnonzero(bad)}, table.key)
            left.rejects.append(write_run(table.fs, left.path(), run.source, block.rejects, table.limits.batch_rows))
            if block.table.num_rows:
                left.add_partition(run.source, partition, block.table)
                kept.append(left.written[-1])
            else:
                left.columns |= side_facts(table.name, block.table)
    return Record("", 0, sum(run.rows for run in kept), kept, left.rejects, columns=left.columns)


def _sentence(block: SourceTable, column: str, reason: str) -> Callable[[int], str]:
    values = block.table[column]
    return lambda row: tables.sentence(column, values[row].as_py(), reason)


def write_range(table: Table, number: int, within: TimeRange, sides: dict[str, pa.DataType]) -> Record:
    schema = tables.spec_of(table.name).schema
    found = []
    for each in within.slices:
        rows = read_run(table.fs, each.path, batches=range(each.first, each.stop))
        first, last = np.searchsorted(rows["shown_at"].to_numpy(), [within.begin, within.end])
        found.append(cast(rows.slice(first, last - first), schema, sides))
    whole = pa.concat_tables(found) if found else pa.table({})
    if not whole.num_rows:
        return Record("")
    path = write_part(table.fs, f"{table.folder}/{table.name}", table.name, number, in_time_order(whole))
    part = Part(path.removeprefix(f"{table.folder}/"), whole.num_rows, pc.max(whole["shown_at"]).as_py())
    return Record("", written=whole.num_rows, parts=[part])


def write_partition(table: Table, partition: int, runs: list[Run], sides: dict[str, pa.DataType]) -> Record:
    folder, written = f"{table.folder}/{table.name}", 0
    schema = tables.spec_of(table.name).schema
    cast_runs = (cast(read_run(table.fs, run.path), schema, sides) for run in runs)
    for number, part in enumerate(in_parts(cast_runs, table.limits), PARTS_PER_PARTITION * partition):
        write_part(table.fs, folder, table.name, number, part)
        written += part.num_rows
    return Record("", written=written)


def write_rejects(fs: pafs.FileSystem, folder: str, runs: list[Run], limits: Limits) -> int:
    """Write the rejects of all steps as the part files of `rejects`. Returns their number."""
    rows = 0
    found = (read_run(fs, run.path) for run in runs)
    for number, part in enumerate(in_parts(found, limits)):
        write_part(fs, f"{folder}/rejects", "rejects", number, part)
        rows += part.num_rows
    if not rows:
        write_part(fs, f"{folder}/rejects", "rejects", 0, tables.empty("rejects"))
    return rows


def in_parts(pieces: Iterator[pa.Table], limits: Limits) -> Iterator[pa.Table]:
    """Tables of the size of a part file, or a little less."""
    held: list[pa.Table] = []
    rows = size = 0
    for piece in pieces:
        if held and (rows + piece.num_rows > limits.part_rows or size + piece.nbytes > limits.part_bytes):
            yield pa.concat_tables(held)
            held, rows, size = [], 0, 0
        held.append(piece)
        rows, size = rows + piece.num_rows, size + piece.nbytes
    if held:
        yield pa.concat_tables(held)


def _partitioned(rows: pa.Table, key: str, partitions: int) -> Iterator[tuple[int, pa.Table]]:
    if partitions == 1:
        yield 0, rows
        return
    hashes = np.array([zlib.crc32(value.encode()) for value in rows[key].to_pylist()], np.int64) % partitions
    for partition in np.unique(hashes):
        yield int(partition), rows.filter(pa.array(hashes == partition))


_catalogs: dict[tuple[str, ...], tuple[pa.Array, np.ndarray]] = {}  # of the catalog that this process has read last


def _catalog(table: Table) -> tuple[pa.Array, np.ndarray]:
    """The ids of the catalog, and the seconds of each video, float32, NaN where they are unknown."""
    if table.catalog not in _catalogs:
        parts = [pq.read_table(path, filesystem=table.fs, columns=["video_id", "duration_s"]) for path in table.catalog]
        whole = pa.concat_tables(parts)
        _catalogs.clear()
        _catalogs[table.catalog] = whole["video_id"].cast(TEXT).combine_chunks(), whole["duration_s"].to_numpy()
    return _catalogs[table.catalog]


def _track_ids(table: Table) -> pa.Array:
    parts = [pq.read_table(path, filesystem=table.fs, columns=["track_id"]) for path in table.catalog]
    return pa.concat_tables(parts)["track_id"].cast(TEXT).combine_chunks()


def _durations(table: Table, videos: pa.ChunkedArray) -> np.ndarray:
    """The seconds of videos of the catalog by their ids: float32 [rows]."""
    ids, durations = _catalog(table)
    return durations[pc.index_in(videos, value_set=ids).to_numpy()]


def _lost_ids(table: Table) -> set[str]:
    """The ids of what was rejected from the catalog or the tracks."""
    return {id for path in table.lost for id in read_run(table.fs, path, ["id"])["id"].to_pylist()}
