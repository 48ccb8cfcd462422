"""Tables as folders of Parquet part files."""

import hashlib
import logging
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec import tables
from rayrec.errors import did_you_mean
from rayrec.workspace.files import WorkspaceError, read_whole, written_whole

log = logging.getLogger(__name__)


def read_parts(fs: pafs.FileSystem, folder: str, name: str, columns: list[str] | None = None) -> pa.Table:
    """A table from all its Parquet part files, in the order of their names. If the folder is absent, the table is empty."""
    return read_files(fs, part_paths(fs, folder), name, columns)


def read_files(fs: pafs.FileSystem, paths: list[str], name: str, columns: list[str] | None = None) -> pa.Table:
    """A table from these part files. Raises `TableError` if one of the `columns` is not there."""
    parts = list(stream_files(fs, paths, name, columns))
    return pa.concat_tables(parts).combine_chunks() if parts else tables.empty(name)


def stream_files(fs: pafs.FileSystem, paths: list[str], name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The same, part by part. Raises `TableError` if one of the `columns` is not there, unless it is an optional one."""
    optional = {field.name: field.type for field in tables.spec_of(name).schema if field.nullable}
    for path in paths:
        if columns is None:
            yield tables.conform(name, pq.read_table(path, filesystem=fs))
            continue
        there = pq.read_schema(path, filesystem=fs).names
        for column in columns:
            if column not in there and column not in optional:
                raise tables.TableError(f"table {name} has no column {column!r}{did_you_mean(column, there)}")
        part = pq.read_table(path, filesystem=fs, columns=[column for column in columns if column in there])
        for column in (column for column in columns if column not in there):
            part = part.append_column(column, pa.nulls(part.num_rows, optional[column]))
        yield tables.typed(name, part)


def read_checked(fs: pafs.FileSystem, path: str, digest: str, name: str, columns: Iterable[str] | None = None) -> pa.Table:
    """A part file, or those of the columns that it has. Raises `WorkspaceError` if it is not as it was written, by its SHA-256."""
    try:
        data = read_whole(fs, path)
    except FileNotFoundError as error:
        raise _damaged(path, "is missing", name) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise _damaged(path, "is damaged (its checksum differs)", name)
    file = pq.ParquetFile(pa.BufferReader(data))
    chosen = None if columns is None else [column for column in columns if column in file.schema_arrow.names]
    return tables.typed(name, file.read(chosen))


def read_footer(fs: pafs.FileSystem, path: str, name: str) -> pq.FileMetaData:
    """What a part file says of itself; its rows are not read. Raises `WorkspaceError` if it is missing or damaged."""
    try:
        return pq.read_metadata(path, filesystem=fs)
    except FileNotFoundError as error:
        raise _damaged(path, "is missing", name) from error
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, f"is damaged ({error})", name) from error


def _damaged(path: str, problem: str, name: str) -> WorkspaceError:
    return WorkspaceError(f"{path} {problem}; make it again: `rayrec {tables.spec_of(name).stage} CONFIG --force`")


def write_part(fs: pafs.FileSystem, folder: str, name: str, number: int, rows: pa.Table) -> str:
    """Validate rows of a table and write them as the part file of this number, which appears when it is whole. Returns its path.

    The keys of rows are compared within the part alone.
    """
    rows, path = tables.validate(name, rows), f"{folder}/part-{number:06d}.parquet"
    with written_whole(fs, path) as place:
        pq.write_table(rows, place, filesystem=fs, compression="zstd")
    return path


def part_paths(fs: pafs.FileSystem, folder: str) -> list[str]:
    selector = pafs.FileSelector(folder, allow_not_found=True)
    return sorted(item.path for item in fs.get_file_info(selector) if item.path.endswith(".parquet"))


class PartWriter:
    """Writes a table that has a `video_id` part by part, and goes on where an earlier run stopped.

    The parts that an earlier run finished count as done. A part that is not whole is deleted, and its rows are to be written again.
    Parts are numbered from `first` on.
    """

    def __init__(self, fs: pafs.FileSystem, folder: str, first: int = 0) -> None:
        self.fs, self.folder = fs, folder
        fs.create_dir(folder, recursive=True)
        self.next = first  # the number of the next part
        self._done: list[pa.Array] = []
        for item in sorted(fs.get_file_info(pafs.FileSelector(folder)), key=lambda item: item.path):
            try:
                if not item.path.endswith(".parquet"):
                    raise ValueError("its writing was not finished")
                ids = pq.read_table(item.path, columns=["video_id"], filesystem=fs)["video_id"].cast(tables.TEXT).combine_chunks()
            except (OSError, ValueError) as error:  # Arrow's errors are among them
                log.warning("%s is not a whole part and is deleted: %s", item.path, error)
                fs.delete_file(item.path)
                continue
            self._done.append(ids)
            self.next = max(first, int(item.base_name.removeprefix("part-").removesuffix(".parquet")) + 1)

    @property
    def done(self) -> pa.Array:
        """The `video_id`s of all parts."""
        return pa.concat_arrays([pa.array([], tables.TEXT), *self._done])

    def add(self, rows: pa.Table) -> None:
        """Write the rows as one part that appears when it is whole; nothing for a table without rows."""
        if rows.num_rows:
            path = f"{self.folder}/part-{self.next:06d}.parquet"
            with written_whole(self.fs, path) as place:
                pq.write_table(rows, place, filesystem=self.fs, compression="zstd")
            self.next += 1
            self._done.append(rows["video_id"].cast(tables.TEXT).combine_chunks())
