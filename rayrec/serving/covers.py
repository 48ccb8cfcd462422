"""The covers of videos: files of JPEGs in the workspace, beside the bundles that share them. A cover is read when it is asked for.

    <workspace>/covers/KEY.jpegs                   the covers of a part file of `features`, one behind the other
    <workspace>/covers/added/KEY.jpeg              the cover of a video that was added while the service runs
    <workspace>/publish/<version>/covers.parquet   `INDEX`: where the cover of each video is

KEY comes from the checksum of the part file, so the covers of a part file that stays are copied once, by the first `publish`. Each
cover has its own checksum, which is compared when it is read.
"""

import zlib
from collections.abc import Iterable
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec.errors import RayrecError
from rayrec.tables import BYTES, TEXT
from rayrec.workspace.files import checksum, make_folder_of, read_whole, written_whole
from rayrec.workspace.stage import StageRun
from rayrec.workspace.stores import in_words
from rayrec.workspace.versions import KEPT_UNFINISHED, Workspace

FOLDER, INDEX_FILE = "covers", "covers.parquet"
ADDED = "added"  # the folder in it of the covers of added videos
PLACE = {
    "cover_file": pa.dictionary(pa.int32(), TEXT),  # in the folder of covers
    "cover_offset": pa.int64(),  # bytes from its beginning
    "cover_length": pa.int32(),  # bytes
    "cover_crc32": pa.uint32(),
}
INDEX = pa.schema({"video_id": TEXT, **PLACE})
BATCH = 256  # covers that are in memory at once


class CoverError(RayrecError):
    """A cover can't be read, or is not the one that was published; the message names the file and what to do."""


def publish(run: StageRun) -> pa.Table:
    """Writes the covers of the part files of `features` that the version before does not know, and the index of all.

    Returns the index. Raises `CoverError` for a part file that is damaged.
    """
    digests = run.part_digests("features") if run.workspace.has("features") else {}
    folder = f"{run.workspace.root}/{FOLDER}"
    before = _index(run.workspace, run.previous.version) if run.previous else INDEX.empty_table()
    known = set(before["cover_file"].unique().to_pylist()) & {item.base_name for item in _files(run.fs, folder)}
    files = {f"{digest[:32]}.jpegs": (path, digest) for path, digest in digests.items()}
    indexes = [before.filter(pc.is_in(before["cover_file"].cast(TEXT), pa.array(known & files.keys(), TEXT)))]
    for name, (path, digest) in files.items():
        if name not in known:
            if checksum(run.fs, path) != digest:
                raise CoverError(f"{path} is damaged (its checksum differs); make it again: `rayrec extract CONFIG --force`")
            indexes.append(write(run.fs, path, f"{folder}/{name}"))
    index = pa.concat_tables(indexes).unify_dictionaries()
    pq.write_table(index, f"{run.folder}/{INDEX_FILE}", filesystem=run.fs, compression="zstd")
    _remove_unused(run.workspace, files)
    return index


def write(fs: pafs.FileSystem, part: str, path: str) -> pa.Table:
    """Writes the covers of a part file of `features`, and returns their rows of the `INDEX`."""
    file = pq.ParquetFile(part, filesystem=fs, pre_buffer=False, buffer_size=2**20)
    rows, offset = [], 0
    make_folder_of(fs, path)
    with written_whole(fs, path) as place, fs.open_output_stream(place) as stream:
        batches = file.iter_batches(BATCH, columns=["video_id", "cover_jpeg"]) if "cover_jpeg" in file.schema_arrow.names else ()
        for batch in batches:
            for video_id, jpeg in zip(batch["video_id"].to_pylist(), batch["cover_jpeg"].cast(BYTES), strict=True):
                if (data := jpeg.as_buffer()) is not None:
                    stream.write(data)
                    rows.append((video_id, offset, data.size, zlib.crc32(data)))
                    offset += data.size
    ids, offsets, lengths, sums = zip(*rows, strict=True) if rows else ((),) * 4
    name = pa.DictionaryArray.from_arrays(pa.array([0] * len(rows), pa.int32()), pa.array([path.rsplit("/", 1)[1]], TEXT))
    return pa.table([pa.array(ids, TEXT), name, pa.array(offsets), pa.array(lengths), pa.array(sums)], INDEX.names).cast(INDEX)


def read(fs: pafs.FileSystem, path: str, offset: int, length: int, crc32: int) -> bytes:
    """The JPEG at a place in a file of covers. Raises `CoverError` if it can't be read or is not the one that was published."""
    again = "run `rayrec publish CONFIG --force`"
    try:
        with fs.open_input_file(path) as file:
            jpeg: bytes = file.read_at(length, offset)
    except FileNotFoundError as error:
        raise CoverError(f"{path}: this file of covers is missing; {again}") from error
    except OSError as error:
        raise CoverError(f"{path}: a cover can't be read: {in_words(error)}") from error
    if zlib.crc32(jpeg) != crc32:
        raise CoverError(f"{path}: the cover at byte {offset:,} is not the one that was published (its checksum differs); {again}")
    return jpeg


def read_added(fs: pafs.FileSystem, path: str) -> bytes:
    """The JPEG of a video that was added while the service runs. Raises `CoverError` if it can't be read."""
    try:
        return read_whole(fs, path)
    except OSError as error:
        raise CoverError(f"{path}: the cover of an added video can't be read: {in_words(error)}") from error


def _index(workspace: Workspace, version: str) -> pa.Table:
    """The index of a version, empty for one without covers."""
    try:
        return pq.read_table(f"{workspace.root}/publish/{version}/{INDEX_FILE}", filesystem=workspace.fs).cast(INDEX)
    except FileNotFoundError:
        return INDEX.empty_table()


def _remove_unused(workspace: Workspace, used: Iterable[str]) -> None:
    """Deletes the files that no version names, and that are so old that no other run can be about to name them."""
    versions = [_index(workspace, manifest.version) for manifest in workspace.versions("publish")]
    named = {name for index in versions for name in index["cover_file"].unique().to_pylist()} | set(used)
    old = datetime.now(UTC) - KEPT_UNFINISHED
    for item in _files(workspace.fs, f"{workspace.root}/{FOLDER}"):
        if item.base_name not in named and item.mtime and item.mtime < old:
            workspace.fs.delete_file(item.path)


def _files(fs: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    return [item for item in fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True)) if item.is_file]
