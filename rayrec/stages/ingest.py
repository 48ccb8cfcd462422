"""The stage `ingest`: turns a data set of any kind into our catalog, interactions and users.

The same rules hold for every kind: an id may occur once (the first row wins), the video of an impression must be in the catalog,
numbers must be finite, and times must be after 1970. A row that breaks a rule goes to `rejects` with its file, row and reason. Rows
that are out of time order are sorted. A row that occurs twice in the log stays twice, because a video may be shown again.
"""

from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from rayrec.config import Config, settings_of
from rayrec.datasets.dataset import RawDataset, dataset_of
from rayrec.datasets.screening import in_time_order, reject_unknown_videos, resolve_uris
from rayrec.tables import TRUTH, TableError
from rayrec.workspace.files import file_facts, open_filesystem
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace


def ingest(run: StageRun) -> None:
    """Write `catalog`, `interactions`, `users` (when there are any), the truth (of a synthetic world) and `rejects`.

    Raises `TableError` when a file can't be read at all or no video is left, `WorkspaceError` when too many rows are bad.
    """
    raw = dataset_of(run.config.dataset).read(run.config.dataset, run)
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
    return [fact for path in dataset_of(config.dataset).files(config.dataset) for fact in _facts(path)]


def _facts(path: str) -> list[tuple[str, int, int]]:
    filesystem, inside = open_filesystem(path)
    if filesystem.get_file_info(inside).type != pafs.FileType.Directory:
        return file_facts(filesystem, [inside])
    found = filesystem.get_file_info(pafs.FileSelector(inside, recursive=True))
    return file_facts(filesystem, sorted(item.path for item in found if item.is_file))


def _screen(raw: RawDataset) -> None:
    if raw.media_root and "uri" in raw.catalog.table.column_names:
        resolve_uris(raw.catalog, raw.media_root, raw.confined)
    raw.catalog.screen("catalog")
    raw.interactions.screen("interactions")
    reject_unknown_videos(raw.interactions, raw.catalog)
    if raw.users:
        raw.users.screen("users")


STAGE = Stage(
    "ingest",
    ingest,
    writes=("catalog", "interactions", "users", *TRUTH),
    settings=lambda config: settings_of(config.dataset),
    sources=sources,
)
