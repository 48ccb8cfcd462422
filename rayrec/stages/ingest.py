"""The work of the stage `ingest`: a data set of any kind becomes our catalog, interactions and users.

Whatever the kind, the same rules hold: an id once (the first row wins), an impression only of a video that is in the catalog,
finite numbers, times after 1970. What breaks them is in `rejects` with its file, row and reason. Rows out of time order are put in
order. A row that stands twice in the log stays twice: a video may be shown again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from rayrec.config import Config, MovieLensData, WorldData, YouTubeData, settings_of
from rayrec.datasets import files, movielens, youtube
from rayrec.datasets.screening import Incoming, in_time_order, join_uri, place_media, reject_unknown_videos
from rayrec.datasets.synthetic import world
from rayrec.datasets.synthetic.media import write_clips
from rayrec.tables import TRUTH, TableError
from rayrec.workspace.files import file_facts, open_filesystem
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace


@dataclass
class Raw:
    """A data set as its reader leaves it: converted, not yet screened."""

    catalog: Incoming
    interactions: Incoming
    users: Incoming | None
    media_root: str = ""  # where relative uris start; not needed when there are none
    confined: bool = False  # refuse uris that don't start there
    truth: Mapping[str, pa.Table] = field(default_factory=dict)


def ingest(run: StageRun) -> None:
    """Write `catalog`, `interactions`, `users` (when there are any), the truth (of a synthetic world) and `rejects`.

    Raises `TableError` when a file can't be read at all or no video is left, `WorkspaceError` when too many rows are bad.
    """
    raw = _read(run)
    _screen(raw)
    run.write("catalog", raw.catalog.table)
    run.write("interactions", in_time_order(raw.interactions.table))
    if raw.users:
        run.write("users", raw.users.table)
    for name, table in raw.truth.items():
        run.write(name, table)
    parts = [part for part in (raw.catalog, raw.interactions, raw.users) if part]
    run.count(
        rows_in=raw.catalog.read + raw.interactions.read,
        rows_out=raw.catalog.table.num_rows + raw.interactions.table.num_rows,
        rejects=pa.concat_tables([part.rejects for part in parts]),
    )
    if raw.catalog.table.num_rows == 0:
        raise TableError(f"{raw.catalog.source}: no video is left in the catalog ({raw.catalog.read} rows were read)")


def sources(workspace: Workspace, config: Config) -> list[Any]:
    """The facts about the raw input files (not the media), so that a changed file redoes the stage."""
    data = config.dataset
    if isinstance(data, WorldData):
        return []
    if isinstance(data, MovieLensData):
        paths = [join_uri(data.path, name) for name in movielens.FILES.values()]
    elif isinstance(data, YouTubeData):
        paths = [data.path]
    else:
        given = [each for each in (data.catalog, data.interactions, data.users) if each]
        paths = [path for each in given for path in ([each] if isinstance(each, str) else each)]
    return [fact for path in paths for fact in _facts(path)]


def _facts(path: str) -> list[tuple[str, int, int]]:
    filesystem, inside = open_filesystem(path)
    if filesystem.get_file_info(inside).type != pafs.FileType.Directory:
        return file_facts(filesystem, [inside])
    found = filesystem.get_file_info(pafs.FileSelector(inside, recursive=True))
    return file_facts(filesystem, sorted(item.path for item in found if item.is_file))


def _read(run: StageRun) -> Raw:
    data = run.config.dataset
    if isinstance(data, WorldData):
        return _world(run, data)
    if isinstance(data, MovieLensData):
        catalog, interactions, users = (movielens.read_table(name, data) for name in ("catalog", "interactions", "users"))
        return Raw(catalog, interactions, users)
    if isinstance(data, YouTubeData):
        return Raw(youtube.read_table("catalog", data), youtube.read_table("interactions", data), None)
    return Raw(
        files.read_table("catalog", data),
        files.read_table("interactions", data),
        files.read_table("users", data) if data.users else None,
        media_root=data.media_root or _media_root(data.catalog),
        confined=data.media_root is not None,
    )


def _world(run: StageRun, settings: WorldData) -> Raw:
    made = world.make(settings, run.config.seed)
    write_clips(made.clips, run.fs, f"{run.folder}/{world.MEDIA}")
    return Raw(
        Incoming.whole("the synthetic world's catalog", made.catalog),
        Incoming.whole("the synthetic world's interactions", made.interactions),
        Incoming.whole("the synthetic world's users", made.users),
        media_root=join_uri(run.workspace.uri, f"{run.stage.name}/{run.version}"),
        truth=made.truth,
    )


def _screen(raw: Raw) -> None:
    if raw.media_root and "uri" in raw.catalog.table.column_names:
        place_media(raw.catalog, raw.media_root, raw.confined)
    raw.catalog.screen("catalog")
    raw.interactions.screen("interactions")
    reject_unknown_videos(raw.interactions, raw.catalog)
    if raw.users:
        raw.users.screen("users")


def _media_root(path: str) -> str:
    """The folder of videos that is itself the catalog, or else the one that the catalog's file is in; a local path or a URI."""
    filesystem, inside = open_filesystem(path)
    if filesystem.get_file_info(inside).type == pafs.FileType.Directory:
        return path
    if "://" not in path:
        return str(Path(path).expanduser().resolve().parent)
    base, mark, query = path.partition("?")
    return base.rsplit("/", 1)[0] + mark + query


STAGE = Stage(
    "ingest",
    ingest,
    writes=("catalog", "interactions", "users", *TRUTH),
    settings=lambda config: settings_of(config.dataset),
    sources=sources,
)
