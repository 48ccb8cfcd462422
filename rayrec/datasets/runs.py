"""Rows that wait in files until the rest of their table is there: runs, and the records of the work that wrote them.

A run is one Arrow file in the folder `runs` of the version that is being made. A piece of work writes its record when all of its
runs are complete. If it is killed, the next run of the stage takes over what has a record.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from pydantic import TypeAdapter

from rayrec import tables
from rayrec.datasets.side_columns import Facts, facts_of
from rayrec.workspace.files import read_whole, to_json, write_whole

# Columns that no column of the user's is named like: the number of a row in its file, and in a log without times the part of the
# split that it belongs to (int8, its place in `PARTS`).
ROW, PART = "\0row", "\0part"


@dataclass(frozen=True)
class Run:
    """Rows of the user's. Those of a log with times are in their order, and `starts` has the first time of each batch."""

    path: str
    source: str  # their file, in a table with a key
    rows: int
    size: int  # bytes in memory
    partition: int = 0
    columns: dict[str, Facts] = field(default_factory=dict)  # of a table with a key
    starts: list[int] = field(default_factory=list)
    end: int = 0  # the time of the last row


@dataclass(frozen=True)
class Part:
    """A part file of the log."""

    path: str  # in its version
    rows: int
    end: int  # UTC ms, the time of the last row

    @property
    def number(self) -> int:
        return int(self.path.removesuffix(".parquet").rsplit("-", 1)[1])


@dataclass(frozen=True)
class Record:
    """What a piece of work has done."""

    key: str
    read: int = 0
    written: int = 0
    runs: list[Run] = field(default_factory=list)
    rejects: list[Run] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    columns: dict[str, Facts] = field(default_factory=dict)  # of a log, and of blocks without good rows
    parts: list[Part] = field(default_factory=list)  # of a log


_RECORDS = TypeAdapter(Record)


@dataclass(frozen=True)
class Work:
    """A function that works on its arguments, anywhere, and the file of its record. Its key says what it works on."""

    fs: pafs.FileSystem
    path: str
    key: str
    function: Callable[..., Record]
    arguments: tuple[Any, ...]

    def __call__(self) -> Record:
        done = replace(self.function(*self.arguments), key=self.key)
        write_whole(self.fs, self.path, to_json(_RECORDS.dump_python(done, mode="json")))
        return done

    def done(self) -> Record | None:
        """The record of an earlier run of the stage."""
        try:
            record = _RECORDS.validate_json(read_whole(self.fs, self.path))
        except (FileNotFoundError, ValueError):
            return None
        return record if record.key == self.key else None


def write_run(fs: pafs.FileSystem, path: str, source: str, table: pa.Table, batch_rows: int, **facts: Any) -> Run:
    """Write a table as a run. `facts` are further fields of `Run`."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    table = table.combine_chunks()  # otherwise there would be more batches than `batch_rows` says
    with fs.open_output_stream(path) as stream, pa.ipc.new_file(stream, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return Run(path, source, table.num_rows, table.nbytes, **facts)


def write_sorted_run(fs: pafs.FileSystem, path: str, source: str, log: pa.Table, batch_rows: int) -> Run:
    """Write a part of the log as a run, sorted by time; rows of the same time stay in their order."""
    times = log["shown_at"].to_numpy()
    if np.any(times[1:] < times[:-1]):
        order = np.argsort(times, kind="stable")
        log, times = log.take(pa.array(order)), times[order]
    return write_run(fs, path, source, log, batch_rows, starts=times[::batch_rows].tolist(), end=int(times[-1]))


def side_facts(name: str, table: pa.Table) -> dict[str, Facts]:
    """The facts about the side columns of a block."""
    ours = {*tables.spec_of(name).schema.names, ROW, PART}
    return {column: facts_of(table[column]) for column in table.column_names if column not in ours}


def read_run(fs: pafs.FileSystem, path: str, columns: list[str] | None = None, batches: range | None = None) -> pa.Table:
    """A run, or some of its columns and batches."""
    with fs.open_input_file(path) as stream:
        file = pa.ipc.open_file(stream)
        if columns is not None:
            fields = [file.schema.get_field_index(name) for name in columns]
            file = pa.ipc.open_file(stream, options=pa.ipc.IpcReadOptions(included_fields=fields))
        chosen = range(file.num_record_batches) if batches is None else batches
        return pa.Table.from_batches([file.get_batch(number) for number in chosen], file.schema)
