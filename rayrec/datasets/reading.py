"""Finds tables and videos in files and folders, and reads tables block by block as Arrow columns, without interpreting them.

The cells of a CSV file stay bytes. `conversion.py` decides for each cell whether it can be read as text, a time or a number, so
that a bad cell costs its row and not the whole file.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayrec import tables
from rayrec.datasets.delimited import check_names, csv_blocks
from rayrec.datasets.json_lines import json_blocks
from rayrec.datasets.screening import STAGE, SourceTable
from rayrec.datasets.source import Limits, in_blocks
from rayrec.tables import TableError
from rayrec.values import texts_of
from rayrec.workspace.files import COMPRESSIONS, endings, open_filesystem, open_input
from rayrec.workspace.listing import list_folder
from rayrec.workspace.stores import join_uri

TEXT_ENDINGS = (".csv", ".jsonl", ".ndjson")
TABLE_ENDINGS = (".parquet", *(ending + packed for ending in TEXT_ENDINGS for packed in ("", *COMPRESSIONS)))
FORMATS = ".parquet, .csv or .jsonl"
SHARE_ROWS = 2**20  # of a Parquet file: what one process reads, at least a row group
BYTES_PER_ROW, BYTES_PER_PACKED_ROW = 100, 25  # of a text file, which does not say how many rows it has
OPENED_AT_ONCE = 16
VIDEO_ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".3gp", ".3g2", ".flv"),
    *(".wmv", ".asf", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".ogv", ".mxf"),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """A file, or a range of the row groups of a Parquet file, with the number of its first row and of its rows, about."""

    path: str
    rows: int
    groups: tuple[int, int] | None = None
    first_row: int = 1


def shares_of(paths: list[str]) -> list[Share]:
    """The files in shares that may be read apart from each other.

    Raises `TableError` for a file that has another ending, and for a Parquet file that can't be read.
    """
    with ThreadPoolExecutor(OPENED_AT_ONCE) as pool:
        return [share for shares in pool.map(_shares, paths) for share in shares]


def _shares(path: str) -> list[Share]:
    ending, packed = endings(path)
    if ending == ".parquet" and not packed:
        return _parquet_shares(path)
    if ending not in (*TEXT_ENDINGS, ".json"):
        found = ending + packed or "a file without an ending"
        raise TableError(f"{path}: tables must be {FORMATS} files, or text that ends with .gz, .zst or .bz2, not {found}")
    try:
        filesystem, inside = open_filesystem(path)
        size = filesystem.get_file_info(inside).size or 0
    except (OSError, ValueError, ImportError) as problem:
        raise TableError(f"{path}: the file can't be read: {problem}") from problem
    return [Share(path, size // (BYTES_PER_PACKED_ROW if packed else BYTES_PER_ROW))]


def _parquet_shares(path: str) -> list[Share]:
    with open_input(path, TableError) as stream:
        try:
            facts = pq.ParquetFile(stream).metadata
        except (pa.ArrowInvalid, OSError) as error:
            raise TableError(f"{path}: not a readable Parquet file: {error}") from error
    shares, first, row = [], 0, 1
    rows = 0
    for group in range(facts.num_row_groups):
        held = facts.row_group(group).num_rows
        if rows and rows + held > SHARE_ROWS:
            shares.append(Share(path, rows, (first, group), row))
            first, row, rows = group, row + rows, 0
        rows += held
    return [*shares, Share(path, rows, (first, facts.num_row_groups), row)]


def raw_blocks(share: Share, limits: Limits, careful: bool = False) -> Iterator[SourceTable]:
    """The rows of a share as they are in the file, one block at least.

    Raises `TableError` when it can't be read, and `Damaged` if it must be read from the start and `careful`ly.
    """
    if share.groups is not None:
        return _parquet_blocks(share, limits)
    if endings(share.path)[0] == ".csv":
        return csv_blocks(share.path, limits, careful=careful)
    return json_blocks(share.path, limits)


def _parquet_blocks(share: Share, limits: Limits) -> Iterator[SourceTable]:
    row = share.first_row
    with open_input(share.path, TableError) as stream:
        try:
            file = pq.ParquetFile(stream)
            check_names(share.path, file.schema_arrow.names)
            batches = file.iter_batches(limits.block_rows // 4 or 1, row_groups=range(*share.groups or ()))
            for table in in_blocks(batches, file.schema_arrow, limits.block_rows, limits.block_bytes):
                yield SourceTable.of(share.path, table, row)
                row += table.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise TableError(f"{share.path}: not a readable Parquet file: {error}") from error


def list_videos(folder: str) -> SourceTable | None:
    """The video files in a folder and its subfolders as a catalog, sorted by name; None when `folder` is not a folder.

    The id of a video is its path without the ending, or with it where several files differ in nothing else. Hidden files are left
    out; a file whose name is not UTF-8 is rejected. Raises `TableError` for a folder without videos.
    """
    listing = list_folder(folder)
    if listing is None:
        return None
    shown = [name for name in listing.names if not is_hidden(name)]
    videos = [name for name in shown if PurePosixPath(name).suffix.lower() in VIDEO_ENDINGS]
    if not videos:
        raise TableError(f"{folder}: the folder contains no video ({', '.join(VIDEO_ENDINGS)})")
    warn_of_others(folder, set(shown) - set(videos), "videos")
    return SourceTable(
        folder,
        pa.table({"video_id": ids_of_files(videos), "uri": pa.array(videos, tables.TEXT)}),
        np.arange(len(videos)),
        [_rejected_names(folder, len(videos), listing.unreadable)],
    )


def ids_of_files(videos: list[str]) -> pa.Array:
    """The ids of video files: their paths without the endings, or with them where several files differ in nothing else."""
    stems = [str(PurePosixPath(name).with_suffix("")) for name in videos]
    counts, names = Counter(stems), set(videos)
    ids = [name if counts[stem] > 1 or stem in names else stem for stem, name in zip(stems, videos, strict=True)]
    return texts_of(pa.array(ids, tables.TEXT))


def list_tables(path: str) -> list[str]:
    """The tables in a folder and its subfolders, sorted by name; for a file, the file itself.

    Files and folders whose names begin with "_" or "." are ignored. Raises `TableError` for a folder without tables.
    """
    listing = list_folder(path)
    if listing is None:
        return [path]
    for name in listing.unreadable:
        log.warning("%s: the file %s is left out, because its name is not UTF-8; rename it", path, name)
    shown = [name for name in listing.names if not is_hidden(name, "_.")]
    listed = [name for name in shown if name.lower().endswith(TABLE_ENDINGS)]
    if not listed:
        raise TableError(f"{path}: the folder contains no table ({', '.join(TABLE_ENDINGS)})")
    warn_of_others(path, set(shown) - set(listed), "tables")
    return [join_uri(path, name) for name in listed]


def warn_of_others(folder: str, names: set[str], kind: str) -> None:
    """Log how many files of a folder are not of this kind, such as videos, and their endings."""
    if others := Counter(PurePosixPath(name).suffix.lower() or "none" for name in names):
        endings = ", ".join(f"{ending}: {count}" for ending, count in sorted(others.items()))
        log.warning("%s: files whose endings are not those of %s are left out: %d (%s)", folder, kind, others.total(), endings)


def is_hidden(name: str, marks: str = ".") -> bool:
    return any(part[0] in marks for part in name.split("/"))


def _rejected_names(folder: str, first: int, names: list[str]) -> pa.Table:
    """The rejects of files whose names can't be stored; their rows are counted from `first`."""
    bad = pa.table({"id": pa.array([None] * first + names, tables.TEXT)})
    reasons = [f"uri: the name {name} is not UTF-8; rename the file" for name in names]
    return tables.rejects(STAGE, folder, bad, np.arange(bad.num_rows) >= first, reasons, "id")
