"""Makes the tables of the stage `ingest` from their sources, as a series of steps that are done here or by other processes."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from rayrec import tables
from rayrec.config import ClickRule
from rayrec.datasets.dataset import RawDataset
from rayrec.datasets.growth import NOTHING, Earlier
from rayrec.datasets.runs import Part, Record, Run, Work, write_run
from rayrec.datasets.side_columns import Facts, decided, together
from rayrec.datasets.source import Limits, Source
from rayrec.datasets.steps import LOG_S, Table, draw_times, read_part, read_piece, reject_repeats, write_partition, write_range
from rayrec.datasets.time_order import END, time_ranges
from rayrec.tables import TableError
from rayrec.workspace.files import make_folder_of
from rayrec.workspace.parts import part_paths, write_part

PARTITION_ROWS = 4_000_000  # whose keys are compared in one process

# Does pieces of work, in any order, and yields the index of each with what it has done.
Executor = Callable[[Sequence[Work]], Iterator[tuple[int, Record]]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where tables are made, and how."""

    fs: pafs.FileSystem
    folder: str
    limits: Limits
    execute: Executor
    earlier: Earlier = NOTHING  # what the version before has of the log
    seed: int = 0  # of the order of a log without times
    click_rule: ClickRule | None = None


@dataclass(frozen=True)
class Made:
    """A table that is written."""

    name: str
    read: int  # rows, good and bad
    rows: int
    rejects: list[Run]
    columns: dict[str, Facts] = field(default_factory=dict)  # of a log's side columns
    kept: Sequence[Part] = ()  # of the version before; their rows are counted
    parts: Sequence[Part] = ()  # of a log: these and the new ones
    timeless: bool = False


def make_tables(raw: RawDataset, place: Place) -> list[Made]:
    """Write the catalog, the log, the users and the music (if there are any), in this order, as part files.

    Raises `TableError` for a file that can't be read, and for a catalog without rows.
    """
    catalog = _rows("catalog", raw.catalog, place, media_root=raw.media_root, confined=raw.confined)
    made = [catalog, _log(raw.interactions, replace(place, click_rule=raw.click_rule), catalog)]
    if raw.users:
        made.append(_rows("users", raw.users, place))
    if raw.music:
        tracks = _rows("tracks", raw.music.tracks, place, media_root=raw.music.media_root, confined=raw.music.confined)
        ids = tuple(part_paths(place.fs, f"{place.folder}/tracks"))
        lost = tuple(rejected.path for rejected in tracks.rejects)
        rules = {"catalog": ids, "lost": lost, "rating_range": raw.music.rating_range}
        made += [tracks, _rows("ratings", raw.music.ratings, place, **rules)]
    return made


def _rows(name: str, source: Source, place: Place, **rules: Any) -> Made:
    """Make a table that is no log. Of rows with the same key, where it has one, the first stays."""
    partitions = max(1, -(-source.rows // PARTITION_ROWS))
    table = Table(name, place.fs, place.folder, place.limits, partitions, **rules)
    records = _read(table, source, place.execute)
    split: list[list[Run]] = [[] for _ in range(partitions)]
    for each in (each for record in records for each in record.runs):
        split[each.partition].append(each)
    shares = [(number, runs) for number, runs in enumerate(split) if runs]
    compared = _do(table, "compared", reject_repeats, shares, place.execute) if table.key else []
    kept = [record.runs for record in compared if record.runs] if table.key else [runs for _, runs in shares]
    columns = [record.columns for record in (*records, *compared)] + [each.columns for runs in kept for each in runs]
    sides = decided(columns)
    written = _do(table, "written", write_partition, [(runs[0].partition, runs, sides) for runs in kept], place.execute)
    return _finished(table, [*records, *compared], written, sides)


def _log(source: Source, place: Place, catalog: Made) -> Made:
    """Make the log, in the order of time. Only what the version before lacks is read."""
    ids = tuple(part_paths(place.fs, f"{place.folder}/catalog"))
    lost = tuple(rejected.path for rejected in catalog.rejects)
    partitions = max(1, -(-source.rows // PARTITION_ROWS))  # only of a log without times
    table = Table(
        "interactions", place.fs, place.folder, place.limits, partitions, catalog=ids, lost=lost, click_rule=place.click_rule
    )
    earlier = place.earlier if place.earlier.holds(place.fs, ids) else NOTHING
    records = _read(table, source.without(earlier.facts.files), place.execute)
    columns = together([earlier.facts.columns, *(record.columns for record in records)])
    sides = decided([columns])
    runs = [each for record in records for each in record.runs]
    timeless = any(not run.starts for run in runs)
    if earlier.facts.files and (timeless or sides != decided([earlier.facts.columns])):
        return _log(source, replace(place, earlier=NOTHING), catalog)
    if timeless:
        runs = _with_times(table, runs, place)
    begin = min((run.starts[0] for run in runs), default=END)
    kept = list(takewhile(lambda part: part.end < begin, earlier.facts.parts))
    merged = [(number, *earlier.places[part.path]) for number, part in enumerate(earlier.facts.parts[len(kept) :])]
    before = _do(table, "merged", read_part, merged, place.execute)
    ranges = time_ranges([*(each for record in before for each in record.runs), *runs], place.limits)
    first = kept[-1].number + 1 if kept else 0
    shares = [(number, within, sides) for number, within in enumerate(ranges, first) if within.slices]
    written = _do(table, "written", write_range, shares, place.execute)
    made = _finished(table, records, written, sides, kept)
    _delete_others(place, made.parts)
    batch_rows, rejects = place.limits.batch_rows, enumerate(earlier.rejects)
    lost_before = [write_run(place.fs, table.run_path("lost", number, 0), "", rows, batch_rows) for number, rows in rejects]
    read, rejected = earlier.facts.read + made.read, lost_before + made.rejects
    return replace(made, read=read, rejects=rejected, columns=columns, timeless=timeless)


def _with_times(table: Table, runs: list[Run], place: Place) -> list[Run]:
    """The runs of a log without times, with times. Raises `TableError` if others have times already."""
    if timed := next((run for run in runs if run.starts), None):
        without = next(run for run in runs if not run.starts)
        raise TableError(
            f"{without.source}: the rows have no times or belong to a given split, whereas those of {timed.source} have times; "
            "give files that are all of one kind"
        )
    shares = [(number, [run for run in runs if run.partition == number], place.seed) for number in range(table.partitions)]
    drawn = _do(table, "drawn", draw_times, [share for share in shares if share[1]], place.execute)
    return [run for record in drawn for run in record.runs]


def _delete_others(place: Place, parts: Sequence[Part]) -> None:
    """Delete part files of the log that a killed run left, if it took over more or less of the version before."""
    ours = {f"{place.folder}/{part.path}" for part in parts}
    for path in part_paths(place.fs, f"{place.folder}/interactions"):
        if ours and path not in ours:
            place.fs.delete_file(path)


def _read(table: Table, source: Source, execute: Executor) -> list[Record]:
    """Raises `TableError` for a catalog without rows."""
    records = _do(table, "read", read_piece, list(enumerate(source.pieces)), execute)
    for remark in dict.fromkeys(remark for record in records for remark in record.remarks):
        log.warning("%s", remark)
    if table.name == "catalog" and not any(record.read for record in records):
        raise TableError(f"{source.name}: the catalog has no rows")
    return records


def _do(table: Table, step: str, function: Callable[..., Record], shares: Sequence[tuple], execute: Executor) -> list[Record]:
    """The records of a step for each share of the work: those of an earlier run, and the others from now."""
    make_folder_of(table.fs, f"{table.folder}/runs/any")
    rules = (table.limits, table.partitions)
    there = {item.path for item in table.fs.get_file_info(pafs.FileSelector(f"{table.folder}/runs", allow_not_found=True))}
    records: dict[int, Record] = {}
    work: list[Work] = []
    for share in shares:
        key = hashlib.sha256(repr((rules, share)).encode()).hexdigest()
        each = Work(table.fs, f"{table.folder}/runs/{table.name}-{step}-{share[0]:06d}.json", key, function, (table, *share))
        if each.path in there and (done := each.done()):
            records[share[0]] = done
        else:
            work.append(each)
    logged = time.monotonic()
    for number, record in execute(work):
        records[work[number].arguments[1]] = record
        if time.monotonic() - logged > LOG_S:
            rows = sum(each.read or each.written for each in records.values())
            log.info("%s: %d of %d pieces %s, %s rows", table.name, len(records), len(shares), step, f"{rows:,}")
            logged = time.monotonic()
    return [records[number] for number in sorted(records)]


def _finished(
    table: Table, records: list[Record], written: list[Record], sides: dict[str, pa.DataType], kept: Sequence[Part] = ()
) -> Made:
    rows = sum(part.rows for part in kept) + sum(record.written for record in written)
    if rows == 0:
        empty = tables.empty(table.name)
        for name, kind in sides.items():
            empty = empty.append_column(name, pa.array([], kind))
        write_part(table.fs, f"{table.folder}/{table.name}", table.name, 0, empty)
    rejects = [rejected for record in records for rejected in record.rejects]
    parts = [*kept, *(part for record in written for part in record.parts)]
    return Made(table.name, sum(record.read for record in records), rows, rejects, kept=kept, parts=parts)
