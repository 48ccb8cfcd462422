"""The stage `extract`: media files to feature vectors, as one Ray Data pipeline.

Decoders and networks are two pools of actors, and work at the same time. Batches for the networks mix the frames of many videos.
Finished rows come back to the driver and are written as part files of about 32 videos, each under a temporary name first; the
driver never holds more than that. Videos whose row of the previous version still stands are taken over first, the others follow in
the catalog's order. A run that is killed goes on after its last part: no video is done twice, none is lost. Videos that failed are
kept in no part, so the next run tries them again.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import ray.data
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rayrec import __version__, tables
from rayrec.config import Config, Features, settings_of
from rayrec.features.media.decode import locate
from rayrec.features.rows import EXTRACTED, FAILED, Networks, decode_rows, load_networks, network_rows, resolved
from rayrec.stages.on_ray.cluster import connect
from rayrec.stages.on_ray.data import quiet_context
from rayrec.workspace.files import file_facts
from rayrec.workspace.parts import part_paths
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace

PART_VIDEOS = 32
TORCH_THREADS = 2  # of each copy of the networks that runs on CPUs

log = logging.getLogger(__name__)


def extract(run: StageRun) -> None:
    """Compute the features of every catalog row that has a `uri`; what can't be read goes to `rejects`.

    Raises `ConfigError` before any work for weights or settings that can't be used.
    """
    media = _media(run)
    parts = Parts(run.fs, f"{run.folder}/features")
    _take_over(run, media, parts)
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
    """What the features depend on, weights files included; how many decoders and models there are changes nothing."""
    features = config.features
    used = (section for section in (features.image, features.motion, features.audio, features.text) if section is not None)
    weights = {section.weights for section in (features.image, features.motion) if section is not None} - {"DEFAULT", "none"}
    if features.text is not None and Path(features.text.model).is_dir():
        weights |= {str(path) for path in Path(features.text.model).rglob("*") if path.is_file()}
    return settings_of(*used) | {"weights": file_versions(weights)}


def sources(workspace: Workspace, config: Config) -> list[tuple[str, str]]:
    """The version of every media file of the catalog: one that has changed redoes the stage, and in it, that file."""
    return sorted(file_versions(pc.unique(workspace.read("catalog")["uri"].drop_null()).to_pylist()).items())


def file_versions(uris: Iterable[str]) -> dict[str, str]:
    """Bytes and time of change (ns) of each file that is there."""
    groups: dict[int, tuple[pafs.FileSystem, list[str], list[str]]] = {}
    for uri in sorted(uris):
        try:
            filesystem, path = locate(uri)
        except (OSError, ImportError, ValueError, pa.ArrowException):
            continue  # the pipeline says why, in `rejects`
        _, known, paths = groups.setdefault(id(filesystem) if "://" in uri else 0, (filesystem, [], []))
        known.append(uri)
        paths.append(path)
    return {
        uri: f"{size}:{changed}"
        for filesystem, known, paths in groups.values()
        for uri, (_, size, changed) in zip(known, file_facts(filesystem, paths), strict=True)
        if size >= 0
    }


def _media(run: StageRun) -> pa.Table:
    """The catalog's rows that have a `uri`: video_id, uri, title, file_version, row.

    A file that is not there has no version. Where titles are read, the title is part of it.
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


def _take_over(run: StageRun, media: pa.Table, parts: "Parts") -> None:
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


def _rejects(media: pa.Table, bad: pa.Table) -> pa.Table:
    """The `rejects` rows of videos (video_id, error), each with its file and its row in the catalog."""
    at = pc.index_in(bad["video_id"], value_set=media["video_id"])
    columns = {"stage": pa.array(["extract"] * len(at)), "source": media["uri"].take(at), "reason": bad["error"]}
    return tables.conform("rejects", pa.table(columns | {"row": media["row"].take(at), "id": bad["video_id"]}))


class Parts:
    """The part files of a table that grows on disk: whole ones count as done, a torn one is deleted and its rows are done again."""

    def __init__(self, fs: pafs.FileSystem, folder: str) -> None:
        self.fs, self.folder = fs, folder
        fs.create_dir(folder, recursive=True)
        self.next = 0
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
        if rows.num_rows:
            path = f"{self.folder}/part-{self.next:06d}.parquet"
            pq.write_table(rows, path + ".new", filesystem=self.fs, compression="zstd")
            self.fs.move(path + ".new", path)
            self.next += 1
            self._done.append(rows["video_id"].combine_chunks())


# --- the pipeline ---------------------------------------------------------------------------------------------------------------


class Decoder:
    """The actor that decodes. Not a task: those wander between processes, and each takes 7 s of CPU to import what it needs."""

    def __init__(self, settings: Features) -> None:
        self.settings = settings

    def __call__(self, rows: pa.Table) -> pa.Table:
        return decode_rows(rows, self.settings)


class FeatureExtractor:
    """The actor that holds the networks. They come from the driver, so that every copy is the same and weights are loaded once."""

    def __init__(self, settings: Features, networks: "ray.ObjectRef[Networks]") -> None:
        import torch

        torch.set_num_threads(TORCH_THREADS)
        self.settings = settings
        self.networks = ray.get(networks).to(torch.device("cuda" if ray.get_gpu_ids() else "cpu"))

    def __call__(self, decoded: pa.Table) -> pa.Table:
        return network_rows(decoded, self.settings, self.networks)


def _extracted(pending: pa.Table, config: Config, total: int) -> Iterator[pa.Table]:
    """The extracted rows of the pending videos, about `PART_VIDEOS` at a time, in order; shows a progress line on a terminal."""
    if not pending.num_rows:
        return
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("videos"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress("extract", *columns, console=console, disable=not console.is_terminal) as progress:
        videos = progress.add_task("extract", total=total, completed=total - pending.num_rows)
        for rows in _pipeline(pending, config).iter_batches(batch_size=PART_VIDEOS, batch_format="pyarrow", prefetch_batches=0):
            yield rows.cast(EXTRACTED)
            progress.advance(videos, rows.num_rows)
            log.info("extract: %d of %d videos", progress.tasks[0].completed, total)


def _pipeline(pending: pa.Table, config: Config) -> "ray.data.Dataset":
    networks = load_networks(config.features, config.seed)
    connect(config)
    features = resolved(config.features, networks)
    resources = ray.cluster_resources()
    if features.gpus_per_model > resources.get("GPU", 0):
        log.warning("features.gpus_per_model=%g, and the cluster has no such GPU now: waiting for one", features.gpus_per_model)
    # A model on a GPU needs no CPU of its own. Nor does one get any where that would leave none to decode.
    cpus = int(resources.get("CPU", 0))
    model_cpus = 0 if features.gpus_per_model or cpus <= features.models else 1
    decoders = max(1, min(features.decoders, cpus - model_cpus * features.models))
    rows, block = pending.select(["video_id", "uri", "title", "file_version"]), features.batch_videos
    with ray.data.DataContext.current(quiet_context()):
        return (
            ray.data.from_arrow([rows.slice(start, block) for start in range(0, rows.num_rows, block)])
            .map_batches(
                Decoder,
                fn_constructor_args=(features,),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(min_size=decoders, max_size=features.decoders),
                num_cpus=1,
            )
            .map_batches(
                FeatureExtractor,
                fn_constructor_args=(features, ray.put(networks)),
                batch_size=features.batch_videos,
                batch_format="pyarrow",
                zero_copy_batch=True,
                compute=ray.data.ActorPoolStrategy(size=features.models),
                num_cpus=model_cpus,
                num_gpus=features.gpus_per_model,
            )
        )


STAGE = Stage("extract", extract, reads=("catalog",), writes=("features",), settings=settings, sources=sources)
