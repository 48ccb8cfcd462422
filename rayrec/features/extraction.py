"""The stage `extract`: media files to feature vectors, as one Ray Data pipeline.

Decoders and networks are two pools of actors, and work at the same time. Batches for the networks mix the frames of many videos.
Finished rows come back to the driver in the catalog's order and are written as part files of about 32 videos, each under a
temporary name first. A run that is killed goes on after its last part: no video is done twice, none is lost. Videos that failed are
kept in no part, so a run that goes on tries them again. `ray.init` is the caller's.
"""

import logging
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import ray.data
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rayrec import tables
from rayrec.config import Config, Features
from rayrec.features import audio
from rayrec.features.decode import locate
from rayrec.features.rows import EXTRACTED, FAILED, decode_rows, network_rows
from rayrec.workspace import StageRun, Workspace, file_facts, settings_of

if TYPE_CHECKING:
    from rayrec.features.networks import FeatureNetwork

    NetworkPair = tuple[FeatureNetwork | None, FeatureNetwork | None]

PART_VIDEOS = 32
TORCH_THREADS = 2  # of each copy of the networks that runs on CPUs

log = logging.getLogger(__name__)


def extract(run: StageRun) -> None:
    """Compute the features of every catalog row that has a `uri`; what can't be read goes to `rejects`.

    Raises `ConfigError` before any work for weights or settings that can't be used.
    """
    catalog = run.read("catalog")
    media = catalog.select(["video_id", "uri"]).append_column("row", pa.array(range(catalog.num_rows), pa.int64()))
    media = media.filter(pc.is_valid(media["uri"]))
    parts = Parts(run.fs, f"{run.folder}/features")
    pending = media.filter(pc.invert(pc.is_in(media["video_id"], value_set=parts.done)))
    failed = []
    for rows in _extracted(pending, run.config, media.num_rows):
        lost = pc.equal(rows["status"], FAILED)
        failed.append(rows.filter(lost).select(["video_id", "error"]))
        parts.add(rows.filter(pc.invert(lost)))
    features = run.written_in_parts("features")
    damaged = features.filter(pc.equal(features["status"], "partial")).select(["video_id", "error"])
    run.count(media.num_rows, features.num_rows, _rejects(media, pa.concat_tables([damaged, *failed])))


def settings(config: Config) -> dict[str, Any]:
    """What the features depend on; how many decoders and models there are changes nothing."""
    used = (config.features.image, config.features.motion, config.features.audio)
    return settings_of(*(section for section in used if section is not None))


def sources(workspace: Workspace, config: Config) -> list[tuple[str, int, int]]:
    """Facts about every media file of the catalog and about weights files: one that has changed redoes the stage."""
    uris = set(pc.unique(workspace.read("catalog")["uri"].drop_null()).to_pylist())
    weights = {section.weights for section in (config.features.image, config.features.motion) if section is not None}
    uris |= weights - {"DEFAULT", "none"}
    groups: dict[int, tuple[pafs.FileSystem, list[str]]] = {}
    for uri in sorted(uris):
        try:
            filesystem, path = locate(uri)
        except (OSError, ImportError, ValueError, pa.ArrowException):
            continue  # the pipeline says why, in `rejects`
        groups.setdefault(id(filesystem) if "://" in uri else 0, (filesystem, []))[1].append(path)
    return [fact for filesystem, paths in groups.values() for fact in file_facts(filesystem, paths)]


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
        self.done = pa.array([], pa.string())
        for item in sorted(fs.get_file_info(pafs.FileSelector(folder)), key=lambda item: item.path):
            try:
                if not item.path.endswith(".parquet"):
                    raise ValueError("its writing was not finished")
                ids = pq.read_table(item.path, columns=["video_id"], filesystem=fs)["video_id"].combine_chunks()
            except (OSError, ValueError) as error:  # Arrow's errors are among them
                log.warning("%s is not a whole part and is deleted: %s", item.path, error)
                fs.delete_file(item.path)
                continue
            self.done = pa.concat_arrays([self.done, ids])
            self.next = int(item.base_name.removeprefix("part-").removesuffix(".parquet")) + 1

    def add(self, rows: pa.Table) -> None:
        if rows.num_rows:
            path = f"{self.folder}/part-{self.next:06d}.parquet"
            pq.write_table(rows, path + ".new", filesystem=self.fs, compression="zstd")
            self.fs.move(path + ".new", path)
            self.next += 1


# --- the pipeline ---------------------------------------------------------------------------------------------------------------


class Decoder:
    """The actor that decodes. Not a task: those wander between processes, and each takes 7 s of CPU to import what it needs."""

    def __init__(self, settings: Features) -> None:
        self.settings = settings

    def __call__(self, rows: pa.Table) -> pa.Table:
        return decode_rows(rows, self.settings)


class Networks:
    """The actor that holds the networks. They come from the driver, so that every copy is the same and weights are loaded once."""

    def __init__(self, settings: Features, networks: "ray.ObjectRef[NetworkPair]") -> None:
        import torch

        torch.set_num_threads(TORCH_THREADS)
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self.settings = settings
        self.networks = [network.to(device) if network is not None else None for network in ray.get(networks)]

    def __call__(self, decoded: pa.Table) -> pa.Table:
        return network_rows(decoded, self.settings, *self.networks)


def _networks(config: Config) -> "NetworkPair":
    """The networks of image and motion. Raises `ConfigError` for whatever of the settings can't be used, sound included."""
    # Here, because torchvision takes 6 s to import, and every command comes through this module.
    from rayrec.features.image import image_network
    from rayrec.features.motion import motion_network

    features = config.features
    if features.audio is not None:
        audio.check(features.audio)
    return (
        image_network(features.image, config.seed) if features.image is not None else None,
        motion_network(features.motion, config.seed) if features.motion is not None else None,
    )


def _extracted(pending: pa.Table, config: Config, total: int) -> Iterator[pa.Table]:
    """The extracted rows of the pending videos, about `PART_VIDEOS` at a time, in order; shows a progress line on a terminal."""
    if not pending.num_rows:
        return
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("videos"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress("extract", *columns, console=console, disable=not console.is_terminal) as progress:
        videos = progress.add_task("extract", total=total, completed=total - pending.num_rows)
        for rows in _pipeline(pending, config).iter_batches(batch_size=PART_VIDEOS, batch_format="pyarrow"):
            yield rows.cast(EXTRACTED)
            progress.advance(videos, rows.num_rows)
            log.info("extract: %d of %d videos", progress.tasks[0].completed, total)


def _pipeline(pending: pa.Table, config: Config) -> "ray.data.Dataset":
    features = config.features
    networks = ray.put(_networks(config))
    resources = ray.cluster_resources()
    if features.gpus_per_model > resources.get("GPU", 0):
        log.warning("features.gpus_per_model=%g, and the cluster has no such GPU now: waiting for one", features.gpus_per_model)
    # A model on a GPU needs no CPU of its own. Nor does one get any where that would leave none to decode.
    cpus = int(resources.get("CPU", 0))
    model_cpus = 0 if features.gpus_per_model or cpus <= features.models else 1
    decoders = max(1, min(features.decoders, cpus - model_cpus * features.models))
    block = max(1, min(PART_VIDEOS, math.ceil(pending.num_rows / (2 * features.decoders))))
    blocks = [pending.select(["video_id", "uri"]).slice(start, block) for start in range(0, pending.num_rows, block)]
    with ray.data.DataContext.current(_quiet_context()):
        return (
            ray.data.from_arrow(blocks)
            .map_batches(
                Decoder,
                fn_constructor_args=(features,),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(min_size=decoders, max_size=features.decoders),
                num_cpus=1,
            )
            .map_batches(
                Networks,
                fn_constructor_args=(features, networks),
                batch_size=features.batch_videos,
                batch_format="pyarrow",
                zero_copy_batch=True,
                compute=ray.data.ActorPoolStrategy(size=features.models),
                num_cpus=model_cpus,
                num_gpus=features.gpus_per_model,
            )
        )


def _quiet_context() -> "ray.data.DataContext":
    """Ray Data's settings for this pipeline: rows stay in order, and our own progress line is the only one."""
    for chatty in ("progress", "execution.streaming_executor"):
        logging.getLogger(f"ray.data._internal.{chatty}").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    return context
