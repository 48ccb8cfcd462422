"""Gives the videos that were added while the service runs back to the catalog: `<folder>/catalog.parquet`.

The file holds rows in our names and units, and is marked as such, so that `ingest` reads it beside the user's own catalog
(`dataset.catalog` takes a list). The media stay where they are. The file keeps the videos of earlier exports, so that it may hold
more than the store does. Every export writes it as a whole, in one atomic step.
"""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec import tables
from rayrec.config import Config, ConfigError, FilesData
from rayrec.datasets.files import EXPORTED_CATALOG
from rayrec.serving.additions import AddedVideo, catalog_table
from rayrec.serving.state.opening import is_redis, open_store, state_path
from rayrec.workspace.files import open_filesystem, write_whole
from rayrec.workspace.stores import join_uri, split_uri

FILE = "catalog.parquet"
NO_VIDEOS = "no service has added videos in this workspace, so there is nothing to export"


class VideoExport(NamedTuple):
    """What an export has done."""

    new: int  # videos that were not in the file
    videos: int  # in the file now
    path: str


def export_videos(config: Config, folder: str) -> VideoExport:
    """Brings the file in a folder (a local path or a URI) up to date with the store.

    Raises `ConfigError` if no video has been added, if a file is outside of `dataset.media_root`, so that `ingest` would reject it,
    or if the folder can't be read or written.
    """
    if not is_redis(config) and not state_path(config).exists():
        raise ConfigError(f"{NO_VIDEOS} (there is no file {state_path(config)})")
    store = open_store(config)
    try:
        added = {addition.video_id: AddedVideo.from_json(addition.row) for addition in store.additions(0)}
    finally:
        store.close()
    path = join_uri(folder, FILE)
    try:
        fs, inside = open_filesystem(path)
        before = _read(fs, inside)
        if not added and not before.num_rows:
            raise ConfigError(NO_VIDEOS)
        rows = _with_relative_uris(catalog_table(list(added.values())), config)
        old = before.filter(pc.invert(pc.is_in(before["video_id"], value_set=rows["video_id"].combine_chunks())))
        known = pc.sum(pc.is_in(rows["video_id"], value_set=before["video_id"].combine_chunks())).as_py() or 0
        table = tables.validate("catalog", pa.concat_tables([old, rows])).replace_schema_metadata(EXPORTED_CATALOG)
        with pa.BufferOutputStream() as stream:
            pq.write_table(table, stream, compression="zstd")
            write_whole(fs, inside, stream.getvalue())
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{path} can't be read or written: {error}") from error
    return VideoExport(rows.num_rows - known, table.num_rows, path)


def _read(fs: pafs.FileSystem, path: str) -> pa.Table:
    if not fs.get_file_info(path).is_file:
        return tables.empty("catalog")
    found = tables.conform("catalog", pq.read_table(path, filesystem=fs, partitioning=None))
    return found.select(tables.spec_of("catalog").schema.names)


def _with_relative_uris(rows: pa.Table, config: Config) -> pa.Table:
    """With a `dataset.media_root`, below which every file must be, the rows name files from there on."""
    root = config.dataset.media_root if isinstance(config.dataset, FilesData) else None
    if root is None:
        return rows
    for name in ("uri", "cover_uri"):
        uris = [None if uri is None else _relative(uri, root) for uri in rows[name].to_pylist()]
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(uris, tables.TEXT))
    return rows


def _relative(uri: str, root: str) -> str:
    if "://" in root:
        folder, place = split_uri(root), split_uri(uri)
        start = folder.path.rstrip("/") + "/"
        if "://" in uri and place.root == folder.root and place.path.startswith(start):
            return place.path.removeprefix(start)
    elif "://" not in uri and Path(uri).is_relative_to(absolute := Path(root).expanduser().resolve()):
        return str(Path(uri).relative_to(absolute))
    raise ConfigError(
        f"{uri} is outside of dataset.media_root ({root}), so `ingest` would reject it: set serving.uploads.folder to a folder "
        "below dataset.media_root before videos are sent, or leave out dataset.media_root"
    )
