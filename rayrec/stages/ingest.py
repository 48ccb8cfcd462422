"""The stage `ingest`: turns a data set of any kind into our catalog, interactions and users, and tracks and ratings of music.

The same rules hold for every kind: an id may occur once (the first row wins), the video of an impression must be in the catalog,
numbers must be finite, and times must be after 1970. A row that breaks a rule goes to `rejects` with its file, row and reason. Rows
that are out of time order are sorted. A row that occurs twice in the log stays twice, because a video may be shown again.

No process holds a whole table. The steps of `datasets/steps.py` are done one after the other in this process for a small data set,
and by Ray's workers for a large one. A stage that is killed goes on from the steps that are complete. Of a log that has grown by
files, only the new files are read.
"""

import logging
from typing import Any

import pyarrow as pa

from rayrec import tables
from rayrec.config import Config, settings_of
from rayrec.datasets.dataset import RawDataset, dataset_of
from rayrec.datasets.growth import LogFacts, earlier_log, facts_of_files, write_facts
from rayrec.datasets.making import Executor, Place, make_tables
from rayrec.datasets.music import music_files, read_music
from rayrec.datasets.runs import Run, read_run
from rayrec.datasets.source import Limits
from rayrec.datasets.steps import write_rejects
from rayrec.stages.execution import executor_for
from rayrec.tables import TRUTH, TableError
from rayrec.workspace.files import file_facts, open_filesystem
from rayrec.workspace.listing import list_folder
from rayrec.workspace.stage import MAX_SHOWN, Stage, StageRun
from rayrec.workspace.versions import Workspace

log = logging.getLogger(__name__)


def ingest(run: StageRun) -> None:
    """Write `catalog`, `interactions`, `users`, `tracks` and `ratings` (when there are any), the truth (of a synthetic world) and
    `rejects`.

    Raises `TableError` when a file can't be read at all or no video, track or rating is left, `WorkspaceError` when too many rows
    are bad.
    """
    raw = dataset_of(run.config.dataset).read(run.config.dataset, run)
    if run.config.music is not None and raw.music is None:
        raw.music = read_music(run.config.music.data)
    ingest_tables(run, raw, executor_for(_rows(raw), run.config), Limits())


def ingest_tables(run: StageRun, raw: RawDataset, execute: Executor, limits: Limits) -> None:
    """The same for tables that are still to be read, in blocks within the limits."""
    files = facts_of_files(raw.interactions.files)
    made = make_tables(raw, Place(run.fs, run.folder, limits, execute, earlier_log(run, files), run.config.seed))
    for table in made:
        run.record_parts(table.name, table.rows)
    catalog, impressions = made[:2]
    for part in impressions.kept:
        run.share(part.path)
    if impressions.timeless:  # the order of a user's rows, which is drawn, changes with every further row
        files = {}
    write_facts(run, LogFacts(files, impressions.read, impressions.columns, list(impressions.parts)))
    for name, truth in raw.truth.items():
        run.write(name, truth)
    rejects = [rejected for table in made for rejected in table.rejects]
    run.record_parts("rejects", write_rejects(run.fs, run.folder, rejects, limits))
    counted = [table for table in made if table.name != "users"]
    run.count(rows_in=sum(table.read for table in counted), rows_out=sum(table.rows for table in counted))
    run.check_rejects(_first(run, rejects))
    if catalog.rows == 0:
        raise TableError(f"{raw.catalog.name}: no video is left in the catalog ({catalog.read} rows were read)")
    for table in made[2:]:
        if table.name != "users" and table.rows == 0:
            raise TableError(f"music.data: no row is left in the table {table.name} ({table.read} were read)")
    run.fs.delete_dir(f"{run.folder}/runs")
    if raw.interactions.files and not impressions.rows:
        log.warning(
            "%s: the log has no impressions, so the stages that learn from it are left out, and pages are in the order of recall",
            raw.interactions.name,
        )


def _first(run: StageRun, rejects: list[Run]) -> pa.Table:
    """The first rejects."""
    few = [read_run(run.fs, each.path, batches=range(1)).slice(0, MAX_SHOWN) for each in rejects[:MAX_SHOWN]]
    return pa.concat_tables([tables.empty("rejects"), *few])


def sources(workspace: Workspace, config: Config) -> list[Any]:
    """The facts about the raw input files (not the media), so that a changed file redoes the stage."""
    music = music_files(config.music.data) if config.music is not None else []
    return [fact for path in (*dataset_of(config.dataset).files(config.dataset), *music) for fact in _facts(path)]


def settings(config: Config) -> dict[str, Any]:
    """The sections that say where the tables come from."""
    return settings_of(config.dataset, *([config.music.data] if config.music is not None else []))


def _facts(path: str) -> list[tuple[str, int, int]]:
    """Raises `TableError` for a path or URI that can't be opened at all."""
    try:
        filesystem, inside = open_filesystem(path)
        listing = list_folder(path)
        return file_facts(filesystem, [inside] if listing is None else [f"{inside.rstrip('/')}/{name}" for name in listing.names])
    except (OSError, ValueError, ImportError) as error:
        raise TableError(f"{path} can't be opened: {error}") from error


def _rows(raw: RawDataset) -> int:
    music = (raw.music.tracks, raw.music.ratings) if raw.music else ()
    return sum(source.rows for source in (raw.catalog, raw.interactions, raw.users, *music) if source)


STAGE = Stage(
    "ingest",
    ingest,
    writes=("catalog", "interactions", "users", "tracks", "ratings", *TRUTH),
    settings=settings,
    sources=sources,
    shares=True,
)
