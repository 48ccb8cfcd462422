"""The stage `extract`: turns media files into feature vectors.

Decoders and networks are two pools of Ray actors, which work at the same time. Finished rows come back to this process and are
written as part files of about 32 videos; it never holds more than that. Videos whose row in the previous version is still valid are
copied first; the others follow in the order of the catalog. A run that was killed goes on after its last part: no video is done
twice, and none is lost. Videos that failed are in no part, so the next run tries them again.
"""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec import __version__, tables
from rayrec.config import Config, Section, settings_of
from rayrec.features.media.files import file_versions
from rayrec.features.rows import EXTRACTED, FAILED, GIVEN
from rayrec.workspace.parts import PartWriter, part_paths
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace

PART_VIDEOS = 32

log = logging.getLogger(__name__)


def extract(run: StageRun) -> None:
    """Compute the features of every catalog row that has a `uri`; files that can't be read go to `rejects`.

    Raises `ConfigError` before any work for weights or settings that can't be used.
    """
    media = _media(run)
    parts = PartWriter(run.fs, f"{run.folder}/features")
    _copy_valid_rows(run, media, parts)
    pending = media.filter(pc.invert(pc.is_in(media["video_id"], value_set=parts.done)))
    failed = []
    for rows in _extracted(pending, run.config, media.num_rows):
        lost = pc.equal(rows["status"], FAILED)
        failed.append(rows.filter(lost).select(["video_id", "error"]))
        parts.add(rows.filter(pc.invert(lost)))
    done = run.written_in_parts("features")
    states = _columns(run.fs, f"{run.folder}/features", ["video_id", "status", "error"])
    damaged = states.filter(pc.equal(states["status"], "partial")).select(["video_id", "error"])
    run.count(media.num_rows, done, _rejects(media, pa.concat_tables([damaged, *failed])))


def settings(config: Config) -> dict[str, Any]:
    """What the features depend on, weights files included. The numbers of decoders and models don't matter."""
    features = config.features
    weights = {section.weights for section in (features.image, features.motion) if section is not None} - {"DEFAULT", "none"}
    if features.text is not None and Path(features.text.model).is_dir():
        weights |= {str(path) for path in Path(features.text.model).rglob("*") if path.is_file()}
    sections = (value for _, value in features if isinstance(value, Section))  # a modality that is left out is None
    return settings_of(*sections) | {"weights": file_versions(weights)}


def sources(workspace: Workspace, config: Config) -> list[tuple[str, str]]:
    """The version of every media file of the catalog. A file that has changed redoes the stage and, in it, that file."""
    return sorted(file_versions(pc.unique(workspace.read("catalog")["uri"].drop_null()).to_pylist()).items())


def _media(run: StageRun) -> pa.Table:
    """The catalog's rows that have a `uri`: video_id, uri, title, file_version, row.

    The version of a missing file is null. Where titles are read, the title is part of the version.
    """
    catalog = run.read("catalog")
    media = catalog.select(["video_id", "uri", "title"]).append_column("row", pa.array(range(catalog.num_rows), pa.int64()))
    media = media.filter(pc.is_valid(media["uri"])).combine_chunks()
    found = file_versions(pc.unique(media["uri"]).to_pylist())
    versions = [found.get(uri) for uri in media["uri"].to_pylist()]
    if run.config.features.text is not None:
        titles = [hashlib.sha256((title or "").encode()).hexdigest()[:12] for title in media["title"].to_pylist()]
        versions = [version and f"{version}:{title}" for version, title in zip(versions, titles, strict=True)]
    return media.append_column("file_version", pa.array(versions, pa.string()))


def _copy_valid_rows(run: StageRun, media: pa.Table, parts: PartWriter) -> None:
    """Copy the rows of the previous version whose video is still in the catalog, with the same file, and is not done yet."""
    before = run.previous
    if before is None or before.settings != run.settings or before.rayrec != __version__:
        return
    folder = f"{run.previous_folder}/features"
    known = _columns(run.fs, folder, ["video_id", "file_version"])
    now = media["file_version"].take(pc.index_in(known["video_id"], value_set=media["video_id"]))
    same = pc.fill_null(pc.equal(known["file_version"], now), False)
    same = pc.and_(same, pc.invert(pc.is_in(known["video_id"], value_set=parts.done))).combine_chunks()
    log.info("extract: %d of %d videos are unchanged since the last run and kept", same.true_count, media.num_rows)
    start = 0
    waiting = EXTRACTED.empty_table()
    for path in part_paths(run.fs, folder):
        part = pq.read_table(path, filesystem=run.fs)
        waiting = pa.concat_tables([waiting, part.filter(same.slice(start, part.num_rows)).cast(EXTRACTED)])
        start += part.num_rows
        while waiting.num_rows >= PART_VIDEOS:
            parts.add(waiting.slice(0, PART_VIDEOS))
            waiting = waiting.slice(PART_VIDEOS)
    parts.add(waiting)


def _columns(fs: pafs.FileSystem, folder: str, names: list[str]) -> pa.Table:
    """These (text) columns of all part files of `features`."""
    none = EXTRACTED.empty_table().select(names)
    return pa.concat_tables([none, *(pq.read_table(path, filesystem=fs, columns=names) for path in part_paths(fs, folder))])


def _extracted(pending: pa.Table, config: Config, total: int) -> Iterator[pa.Table]:
    """The extracted rows of the pending videos, about `PART_VIDEOS` at a time, in order; shows a progress line on a terminal."""
    if not pending.num_rows:
        return  # nothing to do, so that neither Ray nor a network has to start
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from rayrec.stages.on_ray.extraction import extract_rows

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("videos"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress("extract", *columns, console=console, disable=not console.is_terminal) as progress:
        videos = progress.add_task("extract", total=total, completed=total - pending.num_rows)
        for rows in extract_rows(pending.select(["uri", *GIVEN]), config, PART_VIDEOS):
            yield rows
            progress.advance(videos, rows.num_rows)
            log.info("extract: %d of %d videos", progress.tasks[0].completed, total)


def _rejects(media: pa.Table, bad: pa.Table) -> pa.Table:
    """The `rejects` rows of videos (video_id, error), each with its file and its row in the catalog."""
    at = pc.index_in(bad["video_id"], value_set=media["video_id"])
    columns = {"stage": pa.array(["extract"] * len(at)), "source": media["uri"].take(at), "reason": bad["error"]}
    return tables.conform("rejects", pa.table(columns | {"row": media["row"].take(at), "id": bad["video_id"]}))


STAGE = Stage("extract", extract, reads=("catalog",), writes=("features",), settings=settings, sources=sources)
