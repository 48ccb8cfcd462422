"""Tables as folders of Parquet part files."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec import tables
from rayrec.errors import did_you_mean


def read_parts(fs: pafs.FileSystem, folder: str, name: str, columns: list[str] | None = None) -> pa.Table:
    """A table from all its Parquet part files, in the order of their names. If the folder is absent, the table is empty."""
    parts = list(stream_parts(fs, folder, name, columns))
    return pa.concat_tables(parts).combine_chunks() if parts else tables.empty(name)


def stream_parts(fs: pafs.FileSystem, folder: str, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The same, part by part. Raises `TableError` if one of the `columns` is not there."""
    for path in part_paths(fs, folder):
        if columns is None:
            yield tables.conform(name, pq.read_table(path, filesystem=fs))
            continue
        there = pq.read_schema(path, filesystem=fs).names
        for column in columns:
            if column not in there:
                raise tables.TableError(f"table {name} has no column {column!r}{did_you_mean(column, there)}")
        yield pq.read_table(path, filesystem=fs, columns=columns)


def part_paths(fs: pafs.FileSystem, folder: str) -> list[str]:
    selector = pafs.FileSelector(folder, allow_not_found=True)
    return sorted(item.path for item in fs.get_file_info(selector) if item.path.endswith(".parquet"))
