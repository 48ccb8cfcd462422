"""Part files of the table `features`, as the processes write them that have the rows: an extractor's worker, or the stage itself.

What goes back to the stage is small: the path, the size and the checksum of the file, and the state of each of its videos.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec import tables
from rayrec.features.rows import EXTRACTED, FAILED
from rayrec.workspace.files import checksum, open_filesystem, write_whole

STATES = pa.schema([EXTRACTED.field(name) for name in ("video_id", "status", "error", "file_version")])

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A part file, and what became of the videos for which it was made."""

    path: str  # inside the file system of the workspace
    states: pa.Table  # STATES of all of them; those that FAILED are not in the file
    facts: tuple[int, str] | None = None  # size and SHA-256; None if all have failed, so that there is no file, or if not known
    damaged: tuple[str, ...] = ()  # files that were to be copied and are not as they were written


@dataclass(frozen=True)
class Copied:
    """Rows of a part file of another version, which are still valid."""

    path: str
    facts: tuple[int, str]  # size and SHA-256, from the manifest
    mask: pa.BooleanArray


def write_rows(uri: str, path: str, *blocks: pa.Table) -> Part:
    """Validate rows of EXTRACTED and write them as the part file `path` of the workspace `uri`, without those that FAILED."""
    return _written(open_filesystem(uri)[0], path, pa.concat_tables([block.cast(EXTRACTED) for block in blocks]))


def copy_rows(uri: str, path: str, sources: Sequence[Copied]) -> Part:
    """Write the masked rows of other part files as the part file `path`. A file that is damaged is left out and named."""
    fs, damaged, rows = open_filesystem(uri)[0], [], [EXTRACTED.empty_table()]
    for source in sources:
        if _is_whole(fs, source):
            rows.append(pq.read_table(source.path, filesystem=fs).filter(source.mask).cast(EXTRACTED))
        else:
            damaged.append(source.path)
    return _written(fs, path, pa.concat_tables(rows), tuple(damaged))


def read_states(fs: pafs.FileSystem, path: str) -> pa.Table:
    """The STATES of a part file. Raises `OSError` or `ValueError` for a file that is no Parquet file."""
    return pq.read_table(path, filesystem=fs, columns=STATES.names).cast(STATES)


def whole_parts(fs: pafs.FileSystem, folder: str) -> list[Part]:
    """The part files that a run which was killed has left in a folder. What is not whole is deleted."""
    fs.create_dir(folder, recursive=True)
    found = []
    for item in sorted(fs.get_file_info(pafs.FileSelector(folder)), key=lambda item: item.path):
        try:
            if not item.path.endswith(".parquet"):
                raise ValueError("its writing was not finished")
            found.append(Part(item.path, read_states(fs, item.path)))
        except (OSError, ValueError) as error:  # Arrow's errors are among them
            log.warning("%s is not a whole part and is deleted: %s", item.path, error)
            fs.delete_file(item.path)
    return found


def _written(fs: pafs.FileSystem, path: str, rows: pa.Table, damaged: tuple[str, ...] = ()) -> Part:
    states, good = rows.select(STATES.names), rows.filter(pc.not_equal(rows["status"], FAILED))
    if not good.num_rows:
        return Part(path, states, None, damaged)
    sink = pa.BufferOutputStream()
    pq.write_table(tables.validate("features", good), sink, compression="zstd")
    data = sink.getvalue()
    write_whole(fs, path, data)
    return Part(path, states, (data.size, hashlib.sha256(data).hexdigest()), damaged)


def _is_whole(fs: pafs.FileSystem, source: Copied) -> bool:
    info = fs.get_file_info(source.path)
    return info.is_file and info.size == source.facts[0] and checksum(fs, source.path) == source.facts[1]
