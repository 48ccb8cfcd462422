"""Tables as folders of Parquet part files."""

import logging
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec import tables
from rayrec.errors import did_you_mean

log = logging.getLogger(__name__)


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


class PartWriter:
    """Writes a table that has a `video_id` part by part, and goes on where an earlier run stopped.

    The parts that an earlier run finished count as done. A part that is not whole is deleted, and its rows are to be written again.
    """

    def __init__(self, fs: pafs.FileSystem, folder: str) -> None:
        self.fs, self.folder = fs, folder
        fs.create_dir(folder, recursive=True)
        self.next = 0  # the number of the next part
        self._done: list[pa.Array] = []
        for item in sorted(fs.get_file_info(pafs.FileSelector(folder)), key=lambda item: item.path):
            try:
                if not item.path.endswith(".parquet"):
                    raise ValueError("its writing was not finished")
                ids = pq.read_table(item.path, columns=["video_id"], filesystem=fs)["video_id"].combine_chunks()
            except (OSError, ValueError) as error:  # Arrow's errors are among them
                log.warning("%s is not a whole part and is deleted: %s", item.path, error)
                fs.delete_file(item.path)
                continue
            self._done.append(ids)
            self.next = int(item.base_name.removeprefix("part-").removesuffix(".parquet")) + 1

    @property
    def done(self) -> pa.Array:
        """The `video_id`s of all parts."""
        return pa.concat_arrays([pa.array([], pa.string()), *self._done])

    def add(self, rows: pa.Table) -> None:
        """Write the rows as one part, under a temporary name first; nothing for a table without rows."""
        if rows.num_rows:
            path = f"{self.folder}/part-{self.next:06d}.parquet"
            pq.write_table(rows, path + ".new", filesystem=self.fs, compression="zstd")
            self.fs.move(path + ".new", path)
            self.next += 1
            self._done.append(rows["video_id"].combine_chunks())
