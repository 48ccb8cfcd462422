"""The stage `extract`: turns media files into feature vectors.

Decoders and networks are two pools of Ray actors, which work at the same time. Finished rows stay with the workers, which write
them as part files, each of the videos of `PART_S` seconds or of `PART_VIDEOS` videos, in the order in which they are done. A part
file of the previous version whose rows are all still valid belongs to the new version too, without a copy. The valid rows of
others are copied. A run that was killed goes on after its last part: no video is done twice, and none is lost. Videos that failed
are in no part, so the next run tries them again.
"""

import hashlib
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from rayrec import __version__, tables
from rayrec.config import PACKAGED, Config, ConfigError, ImageFeatures, Section, need_package, settings_of
from rayrec.features.media.covers import cover_versions
from rayrec.features.media.files import file_versions
from rayrec.features.origins import networks_in_words
from rayrec.features.part_files import STATES, Copied, Part, copy_rows, read_states, whole_parts
from rayrec.features.rows import FAILED, GIVEN, with_cover_side
from rayrec.serving.cluster.room import check_room
from rayrec.workspace.parts import part_paths
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace, WorkspaceError

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID

    from rayrec.stages.on_ray.writing import Block

PART_VIDEOS = 1024  # in a part file, at most
PART_S = 20.0  # after which a part file is written with what there is, so that a kill costs no more than that
MAX_SMALL = 8  # so many part files with less than half of `PART_VIDEOS` are shared; more of them are copied into larger ones
LOCAL_VIDEOS = 20_000  # the most whose rows this process copies alone
NO_FILE = "none"  # the version of a video that has no file, and of a cover that is missing
LOG_S = 10.0  # between two lines about the progress

log = logging.getLogger(__name__)


def extract(run: StageRun) -> None:
    """Compute the features of every catalog row with a `uri` or a `cover_uri`, and with a title where titles are read.

    Files that can't be read go to `rejects`.

    Raises `ConfigError` before any work for weights or settings that can't be used, `WorkspaceError` if a worker wrote a part file
    that this process does not find.
    """
    media = _media(run)
    parts = NewParts(run)
    _take_over(run, media, parts)
    pending = media.filter(pc.invert(pc.is_in(media["video_id"], value_set=parts.done)))
    _extract(run, pending, media.num_rows, parts)
    states = parts.finish()
    lost = states.filter(pc.not_equal(states["status"], "ok"))
    run.count(media.num_rows, run.written["features"], _rejects(media, lost))


def settings(config: Config) -> dict[str, Any]:
    """What the features depend on, weights files included. The numbers of decoders and models don't matter."""
    features = config.features
    names, weights = networks_in_words(features), set[str]()
    if features.image is not None and (compression := features.image.compression) is not None:
        # The file says how it was made, and `names` whether it is run in integers.
        weights = {compression.file}
        features = features.model_copy(update={"image": features.image.model_copy(update={"compression": None, "weights": "none"})})
    networks = (features.image, features.motion, features.audio)
    weights |= {section.weights for section in networks if section is not None and section.weights} - {"DEFAULT", "none"}
    if features.text is not None and Path(features.text.model).is_dir():
        weights |= {str(path) for path in Path(features.text.model).rglob("*") if path.is_file()}
    sections = (value for _, value in features if isinstance(value, Section))  # a modality that is left out is None
    return settings_of(*sections) | {
        "weights": file_versions(weights),
        "networks": names,
        "cover_side": with_cover_side(config).cover_side,
    }


def video_sources(workspace: Workspace, config: Config) -> list[tuple[str, str]]:
    """The version of every media file of the catalog."""
    return sorted(file_versions(pc.unique(workspace.read("catalog")["uri"].drop_null()).to_pylist()).items())


def sources(workspace: Workspace, config: Config) -> list[tuple[str, str]]:
    """The version of every media file and cover. One that has changed redoes the stage and, in it, that video."""
    covers = _cover_uris(workspace.read("catalog")).drop_null()
    return video_sources(workspace, config) + sorted(cover_versions(covers.unique().to_pylist()).items())


def _media(run: StageRun) -> pa.Table:
    """The catalog's rows from which something can be extracted: video_id, uri, cover_uri, title, file_version, row.

    The version of a missing video is null, so that it is tried again. Where titles are read, the title is part of the version.
    """
    catalog = run.read("catalog")
    rows = pa.array(range(catalog.num_rows), pa.int64())
    media = catalog.select(["video_id", "uri", "title"]).append_column("cover_uri", _cover_uris(catalog)).append_column("row", rows)
    reads_titles = run.config.features.text is not None
    has_title = pc.and_(pc.is_valid(media["title"]), reads_titles)
    media = media.filter(pc.or_(pc.or_(pc.is_valid(media["uri"]), pc.is_valid(media["cover_uri"])), has_title)).combine_chunks()
    videos = file_versions(pc.unique(media["uri"]).drop_null().to_pylist())
    covers = cover_versions(pc.unique(media["cover_uri"]).drop_null().to_pylist())
    versions = [
        _version(
            NO_FILE if uri is None else videos.get(uri),
            None if cover is None else covers.get(cover, NO_FILE),
            (title or "") if reads_titles else None,
        )
        for uri, cover, title in zip(*(media[name].to_pylist() for name in ("uri", "cover_uri", "title")), strict=True)
    ]
    return media.append_column("file_version", pa.array(versions, tables.TEXT))


def _version(video: str | None, cover: str | None, title: str | None) -> str | None:
    if video is None:
        return None
    parts = [video, cover and f"cover-{cover}", None if title is None else hashlib.sha256(title.encode()).hexdigest()[:12]]
    return ":".join(part for part in parts if part is not None)


def _cover_uris(catalog: pa.Table) -> pa.ChunkedArray | pa.Array:
    """The column, which a catalog lacks that an earlier rayrec wrote."""
    return catalog["cover_uri"] if "cover_uri" in catalog.column_names else pa.nulls(catalog.num_rows, tables.TEXT)


class NewParts:
    """The part files of the version in the making: those that are there, names for others, and the states of all their videos.

    No name is used a second time: not by a later version, which may share a file, and not by a worker of a killed run that is
    still writing while the next run goes on.
    """

    def __init__(self, run: StageRun) -> None:
        """Begins with the parts that a killed run has left."""
        self.run, self.folder = run, f"{run.folder}/features"
        token = uuid.uuid4().hex[:8]
        self.names = (f"{self.folder}/part-{number:06d}-{token}.parquet" for number in itertools.count())
        self.states, self.paths = [STATES.empty_table()], set[str]()
        for part in whole_parts(run.fs, self.folder):
            self.add(part)

    @property
    def done(self) -> pa.Array:
        """The `video_id`s of all parts, and of those that failed in this run."""
        return pa.concat_tables(self.states)["video_id"].combine_chunks()

    def share(self, path: str, states: pa.Table) -> None:
        """Add a part file of the previous version, without a copy."""
        self.run.share(path)
        self.states.append(states)

    def add(self, part: Part) -> None:
        self.states.append(part.states)
        if pc.any(pc.not_equal(part.states["status"], FAILED)).as_py():
            self.paths.add(part.path)
        if part.facts:
            self.run.facts[f"features/{part.path.rpartition('/')[2]}"] = part.facts

    def finish(self) -> pa.Table:
        """Record the table. Returns the states of all videos. A part of which this run does not know is deleted."""
        there = set(part_paths(self.run.fs, self.folder))
        for path in there - self.paths:
            log.warning("extract: %s was written by a run that is dead, and is deleted", path)
            self.run.fs.delete_file(path)
        if missing := sorted(self.paths - there):
            raise WorkspaceError(
                f"extract: a worker has written {missing[0]}, which is not there; `workspace` must be a folder that all machines "
                "of the cluster share, or a bucket"
            )
        states = pa.concat_tables(self.states).combine_chunks()
        tables.refuse("features", states, tables.repeats("features", states))
        self.run.record_parts("features", pc.sum(pc.not_equal(states["status"], FAILED)).as_py() or 0)
        return states


# --- what is taken over ---------------------------------------------------------------------------------------------------------


def _take_over(run: StageRun, media: pa.Table, parts: NewParts) -> None:
    """Take over from the previous version what is still valid.

    Parts whose rows are all valid are shared; the valid rows of others are copied into new ones. A row is valid if its video is
    still in the catalog with the same file, and is not done yet.
    """
    before = run.previous
    if before is None or before.settings != run.settings or before.rayrec != __version__:
        return
    known = {path: rows for path, place in run.previous_parts("features").items() if (rows := _known(run.fs, place)) is not None}
    valid = _valid(known, media, parts.done)
    log.info(
        "extract: %d of %d videos are unchanged since the last run and kept",
        sum(v.true_count for v in valid.values()),
        media.num_rows,
    )
    whole = [path for path in known if valid[path].true_count == len(valid[path])]
    small = [path for path in whole if known[path].num_rows < PART_VIDEOS // 2]
    for path in whole if len(small) <= MAX_SMALL else set(whole) - set(small):
        parts.share(path, known[path])
    _copy(run, {path: mask for path, mask in valid.items() if path not in run.shared and mask.true_count}, parts)


def _known(fs: pafs.FileSystem, path: str) -> pa.Table | None:
    """The states of the videos in a part of the previous version; None if it can't be read."""
    try:
        return read_states(fs, path)
    except (OSError, pa.ArrowInvalid) as error:
        log.warning("extract: %s can't be read (%s); its videos are done again", path, error)
        return None


def _valid(known: dict[str, pa.Table], media: pa.Table, done: pa.Array) -> dict[str, pa.BooleanArray]:
    """Which rows of the parts of the previous version are valid."""
    rows = pa.concat_tables([STATES.empty_table(), *known.values()])
    now = media["file_version"].take(pc.index_in(rows["video_id"], value_set=media["video_id"]))
    same = pc.fill_null(pc.equal(rows["file_version"], now), False)
    valid = pc.and_(same, pc.invert(pc.is_in(rows["video_id"], value_set=done))).combine_chunks()
    ends = itertools.accumulate(part.num_rows for part in known.values())
    return {path: valid.slice(end - part.num_rows, part.num_rows) for (path, part), end in zip(known.items(), ends, strict=True)}


def _copy(run: StageRun, valid: dict[str, pa.BooleanArray], parts: NewParts) -> None:
    """Copy the valid rows of parts of the previous version into parts of this one: here if they are few, else on the workers."""
    assert run.previous is not None
    places, groups, room = run.previous_parts("features"), list[list[Copied]](), 0
    for path, mask in valid.items():
        if mask.true_count > room:
            groups.append([])
            room = PART_VIDEOS
        groups[-1].append(Copied(places[path], run.previous.files[path], mask))
        room -= mask.true_count
    work = [partial(copy_rows, run.workspace.uri, next(parts.names), group) for group in groups]
    if sum(mask.true_count for mask in valid.values()) > LOCAL_VIDEOS:
        from rayrec.stages.on_ray.working import on_workers

        copies = (part for _, part in on_workers(run.config)(work))
    else:
        copies = (each() for each in work)
    for part in copies:
        for path in part.damaged:
            log.warning("extract: %s is damaged (it is not as it was written); its videos are done again", path)
        parts.add(part)


# --- what is new ----------------------------------------------------------------------------------------------------------------


def _extract(run: StageRun, pending: pa.Table, total: int, parts: NewParts) -> None:
    """Extract the pending videos; shows a progress line on a terminal."""
    if not pending.num_rows:
        return  # so that neither Ray nor a network has to start
    log.info("extract: %s", run.settings["networks"])
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from rayrec.stages.on_ray.extraction import extract_rows
    from rayrec.stages.on_ray.writing import write_blocks

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("videos"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress("extract", *columns, console=console, disable=not console.is_terminal) as progress:
        videos = progress.add_task("extract", total=total, completed=total - pending.num_rows)
        with _logged(progress.tasks[0], LOG_S):
            blocks = extract_rows(pending.select(["uri", "cover_uri", *GIVEN]), run.config)
            for part in write_blocks(_counted(blocks, progress, videos), run.workspace.uri, parts.names, PART_VIDEOS, PART_S):
                parts.add(part)


def _counted(blocks: "Iterator[Block]", progress: "Progress", videos: "TaskID") -> "Iterator[Block]":
    for block, rows in blocks:
        progress.advance(videos, rows)
        yield block, rows


@contextmanager
def _logged(task: "Task", seconds: float) -> Iterator[None]:
    """Log how far the task is every few seconds while the block runs, also while nothing is finished, and at its end."""
    begun, ended = time.monotonic(), threading.Event()

    def report() -> None:
        log.info("extract: %d of %d videos, %.0f s", task.completed, task.total or 0, time.monotonic() - begun)

    def follow() -> None:
        while not ended.wait(seconds):
            report()

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()
    report()


def _rejects(media: pa.Table, bad: pa.Table) -> pa.Table:
    """The `rejects` rows of videos (video_id, error), each with its file and its row in the catalog, in the catalog's order."""
    at = pc.index_in(bad["video_id"], value_set=media["video_id"])
    columns = {
        "stage": pa.array(["extract"] * len(at)),
        "source": pc.coalesce(media["uri"], media["cover_uri"]).take(at),
        "reason": bad["error"],
    }
    return tables.conform("rejects", pa.table(columns | {"row": media["row"].take(at), "id": bad["video_id"]}).sort_by("row"))


def check_image_weights(image: ImageFeatures) -> None:
    """Raises `ConfigError` if the weights of the image network come with a package that is not installed."""
    if image.compression is None and image.weights == "DEFAULT" and image.model in PACKAGED:
        need_package(PACKAGED[image.model], "weights", f"features.image.model={image.model}")


def check(config: Config) -> None:
    """Raises `ConfigError` for a missing package or file of weights, for 8-bit kernels on GPUs, and for GPUs that are not there."""
    features = config.features
    if (image := features.image) is not None:
        check_image_weights(image)
        if image.compression is not None and image.compression.int8 and features.gpus_per_model:
            raise ConfigError(
                "features.image.compression.int8=true is for CPUs, but features.gpus_per_model asks for GPUs; set one of them to "
                "false or 0"
            )
        if image.compression is not None and image.compression.int8 and image.maps is not None:
            raise ConfigError(
                "features.image.maps are taken between the layers of the network, which features.image.compression.int8=true "
                "runs in integers; set maps to null or int8 to false"
            )
    if (audio := features.audio) is not None and audio.weights and not file_versions([audio.weights]):
        raise ConfigError(f"features.audio.weights: there is no file {audio.weights}; `rayrec convert` makes it of YAMNet's")
    if (text := features.text) is not None:
        if text.model in PACKAGED:
            need_package(PACKAGED[text.model], "weights", f"features.text.model={text.model}")
        if text.model != "use":
            need_package("transformers", "text", "features.text")
    check_room("features.models", 1 if features.models == "auto" else features.models, gpus=features.gpus_per_model)


STAGE = Stage(
    "extract",
    extract,
    reads=("catalog",),
    writes=("features",),
    settings=settings,
    sources=sources,
    shares=True,
    check=check,
)
