"""Reads the rows of CSV and Parquet files as Arrow columns, without interpreting them.

The cells of a CSV file stay bytes. `conversion.py` decides for each cell whether it can be read as text, a time or a number, so
that a bad cell costs its row and not the whole file.
"""

from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pyarrow import csv

from rayrec import tables
from rayrec.datasets.screening import STAGE, SourceTable, join_uri
from rayrec.tables import TableError
from rayrec.workspace.files import open_filesystem

TABLE_ENDINGS = (".parquet", ".csv")
VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
LONGEST_ROW = 16 << 20  # bytes; the CSV reader works in blocks of this size, and a row must fit into a block


def read_rows(path: str) -> SourceTable:
    """The rows of a `.parquet` or `.csv` file. Raises `TableError` when it can't be read or has another ending."""
    readers: dict[str, Callable[[str], SourceTable]] = {".parquet": read_parquet, ".csv": read_csv}
    ending = PurePosixPath(path.partition("?")[0] if "://" in path else path).suffix.lower()
    if ending not in readers:
        raise TableError(f"{path}: tables must be .parquet or .csv files, not {ending or 'a file without an ending'}")
    return readers[ending](path)


def list_videos(folder: str) -> SourceTable | None:
    """The video files in a folder and its subfolders as a catalog, sorted by name; None when `folder` is not a folder.

    Raises `TableError` for a folder without videos.
    """
    filesystem, inside = open_filesystem(folder)
    if filesystem.get_file_info(inside).type != pafs.FileType.Directory:
        return None
    found = filesystem.get_file_info(pafs.FileSelector(inside, recursive=True))
    names = sorted(item.path[len(inside) :].lstrip("/") for item in found if item.is_file)
    videos = [name for name in names if PurePosixPath(name).suffix.lower() in VIDEO_ENDINGS]
    if not videos:
        raise TableError(f"{folder}: the folder contains no video ({', '.join(VIDEO_ENDINGS)})")
    ids = [str(PurePosixPath(name).with_suffix("")) for name in videos]
    return SourceTable.of(folder, pa.table({"video_id": ids, "uri": videos}))


def list_tables(path: str) -> list[str]:
    """The tables in a folder and its subfolders, sorted by name; for a file, the file itself.

    Files and folders whose names begin with "_" or "." are ignored. Raises `TableError` for a folder without tables.
    """
    filesystem, inside = open_filesystem(path)
    if filesystem.get_file_info(inside).type != pafs.FileType.Directory:
        return [path]
    found = filesystem.get_file_info(pafs.FileSelector(inside, recursive=True))
    names = sorted(item.path[len(inside) :].lstrip("/") for item in found if item.is_file)
    listed = [
        name for name in names if name.lower().endswith(TABLE_ENDINGS) and not any(part[0] in "_." for part in name.split("/"))
    ]
    if not listed:
        raise TableError(f"{path}: the folder contains no table ({', '.join(TABLE_ENDINGS)})")
    return [join_uri(path, name) for name in listed]


def read_parquet(path: str) -> SourceTable:
    """The rows of a Parquet file."""
    with _opened(path) as stream:
        try:
            table = pq.ParquetFile(stream).read()
        except (pa.ArrowInvalid, OSError) as error:
            raise TableError(f"{path}: not a readable Parquet file: {error}") from error
    _check_names(path, table.column_names)
    return SourceTable.of(path, table)


def read_csv(
    path: str, columns: list[str] | None = None, delimiter: str = ",", encoding: str = "utf8", quotes: bool = True
) -> SourceTable:
    """The rows of a delimited text file, as columns of bytes. An empty cell is null.

    `columns` names the columns of a file without a header. A row with too few or too many cells goes to the rejects.
    """
    broken: list[csv.InvalidRow] = []

    def skip(row: csv.InvalidRow) -> str:
        broken.append(row)
        return "skip"

    # With threads, a broken row has no row number.
    reading = csv.ReadOptions(use_threads=False, block_size=LONGEST_ROW, column_names=columns, encoding=encoding)
    parsing = csv.ParseOptions(
        delimiter=delimiter, quote_char='"' if quotes else False, newlines_in_values=quotes, invalid_row_handler=skip
    )
    try:
        with _opened(path) as stream:
            names = csv.open_csv(stream, reading, parsing).schema.names
        _check_names(path, names)
        broken.clear()
        as_bytes = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary()), null_values=[""], strings_can_be_null=True)
        with _opened(path) as stream:
            table = csv.read_csv(stream, reading, parsing, as_bytes)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise TableError(f"{path}: not a readable CSV file: {error}") from error
    return _without_broken(path, table, broken, first=1 if columns else 2)


def _without_broken(path: str, table: pa.Table, broken: list[csv.InvalidRow], first: int) -> SourceTable:
    """The table, with the rows that the CSV reader skipped among its rejects.

    `first` is the reader's number of the first row of data; it counts from 1, and counts the header.
    """
    skipped = np.array([row.number - first for row in broken], dtype=np.int64)
    rows = np.setdiff1d(np.arange(table.num_rows + len(broken)), skipped)
    reasons = [f"has {row.actual_columns} cells, the table {row.expected_columns} columns: {row.text[:80]!r}" for row in broken]
    no_ids = pa.table({"id": pa.nulls(table.num_rows + len(broken), pa.string())})
    bad = np.isin(np.arange(no_ids.num_rows), skipped)
    return SourceTable(path, table, rows, [tables.rejects(STAGE, path, no_ids, bad, reasons, "id")])


def _check_names(path: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{path}: {names.count(name)} columns are named {name!r}; rename all but one")


def _opened(path: str) -> pa.NativeFile:
    try:
        filesystem, inside = open_filesystem(path)
        return filesystem.open_input_file(inside)
    except FileNotFoundError as error:
        raise TableError(f"{path}: there is no such file") from error
    except OSError as error:
        raise TableError(f"{path}: the file can't be read: {error}") from error
