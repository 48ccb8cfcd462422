"""The stage `private_public`: catalog and media -> a trained network and its global feature of every readable video.

Media are decoded once by Ray Data into compact part files, by role (`train`, `held_out`, `rest`), each a random sample of its role.
Ray Train then trains on them (in this process with `workers: 0`) and computes the vectors. Decoding, training and computing each go
on where a killed run stopped; the part files are deleted at the end.

A trained network is kept for as long as its settings and the classes of the videos it learned from stay the same: videos that come,
change or go are only decoded and run through it. Vectors of one network can be compared with each other and with nothing else, so
training anew would redo the topics and every ranker for each new video. `--force` trains anew on all that is there.
"""

import io
import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray.data
from matplotlib.figure import Figure

from rayrec import __version__, tables
from rayrec.config import Config, ConfigError, PrivatePublic, dump
from rayrec.features.private_public.inputs import INPUTS, read_inputs
from rayrec.stages.extract import Parts, file_versions, sources
from rayrec.stages.on_ray.cluster import connect
from rayrec.stages.on_ray.data import quiet_context
from rayrec.stages.on_ray.training import shared, this_device, this_worker, train_on_ray
from rayrec.workspace.checkpoint import Checkpoint
from rayrec.workspace.files import read_whole, write_whole
from rayrec.workspace.parts import read_parts
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    from rayrec.features.private_public import fitting
    from rayrec.features.private_public.network import PrivatePublicNetwork

TRAIN, HELD_OUT, REST = ROLES = ("train", "held_out", "rest")
PART_VIDEOS = 32
SPREAD = {"decoders", "workers", "gpus_per_worker"}  # settings of how the work is spread: no reason to do it again
VIDEOS, REPORT, CURVES = "videos.parquet", "report.json", "learning_curves.png"

log = logging.getLogger(__name__)


def learn_private_public(run: StageRun) -> None:
    """The work of the stage. Raises `ConfigError` before any work for weights that can't be had or too few classes."""
    settings = run.config.private_public
    if settings is None:
        raise ConfigError("private_public: the config has no such section; add `private_public: {}` to train the network")
    videos = catalog_videos(run.read("catalog"))
    videos, vectors = _kept(run, videos) or _anew(run, videos, settings)
    parts = {role: Parts(run.fs, f"{run.folder}/inputs/{role}") for role in ROLES}
    done = pa.concat_arrays([*(part.done for part in parts.values()), vectors["video_id"].combine_chunks()])
    pending = videos.filter(pc.invert(pc.is_in(videos["video_id"], value_set=done)))
    failed = [INPUTS.empty_table()]
    decoded = videos.num_rows - pending.num_rows
    if pending.num_rows:
        connect(run.config)
    for rows in _decoded(pending, settings):
        lost = pc.is_valid(rows["error"])
        failed.append(rows.filter(lost))
        for role, part in parts.items():
            part.add(rows.filter(pc.and_(pc.invert(lost), pc.equal(rows["role"], role))))
        decoded += rows.num_rows
        log.info("private_public: decoded %d of %d videos", decoded, videos.num_rows)
    if any(part.next for part in parts.values()):
        _train_on_ray(run, settings, _classes(videos))
    _finish(run, videos, vectors, pa.concat_tables(failed))


def settings(config: Config) -> dict[str, Any]:
    """What the network depends on, a weights file's version included."""
    section = config.private_public
    if section is None:
        return {}
    files = [section.weights] if section.weights not in ("none", "DEFAULT") else []
    return {"PrivatePublic": section.model_dump(mode="json", exclude=SPREAD), "weights": file_versions(files)}


# --- which videos ---------------------------------------------------------------------------------------------------------------


def catalog_videos(catalog: pa.Table) -> pa.Table:
    """The catalog rows that have a file: video_id, uri, row (in the catalog), class and file_version, null for none."""
    rows = pa.array(range(catalog.num_rows), pa.int64())
    columns = {"video_id": catalog["video_id"], "uri": catalog["uri"], "row": rows, "class": catalog["primary_class"]}
    videos = pa.table(columns).filter(pc.is_valid(catalog["uri"]))
    uris = videos["uri"].to_pylist()
    versions = file_versions(set(uris))
    return videos.append_column("file_version", pa.array([versions.get(uri) for uri in uris], pa.string())).combine_chunks()


def with_roles(videos: pa.Table, held_out: float, seed: int) -> pa.Table:
    """The videos in random order with the columns `role` and `label`: a share of those with a class is held out."""
    rng = np.random.default_rng(seed)
    videos = videos.take(pa.array(rng.permutation(videos.num_rows)))
    known = np.flatnonzero(videos["class"].is_valid().to_numpy())
    roles = np.full(videos.num_rows, REST, dtype=object)
    roles[known] = TRAIN
    roles[known[: max(1, round(held_out * len(known)))]] = HELD_OUT
    labels = pc.index_in(videos["class"], value_set=pa.array(_classes(videos), pa.string()))
    videos = videos.append_column("role", pa.array(roles, pa.string())).append_column("label", labels)
    return pa.concat_tables([videos.filter(pc.equal(videos["role"], role)) for role in ROLES])


def _classes(videos: pa.Table) -> list[str]:
    return sorted(pc.unique(videos["class"].drop_null()).to_pylist())


def _anew(run: StageRun, videos: pa.Table, settings: PrivatePublic) -> tuple[pa.Table, pa.Table]:
    """The videos with their roles, and no vectors yet."""
    from rayrec.features.private_public.network import PrivatePublicNetwork  # with torchvision, which takes 6 s to import

    known, classes = videos.num_rows - videos["class"].null_count, _classes(videos)
    if videos.num_rows and (len(classes) < 2 or known < 4):
        raise ConfigError(
            f"private_public: {known} videos with a file have a primary_class, of {len(classes)} classes; the network learns from "
            "classes, two or more: give the catalog more of them, or leave the section `private_public` out of the config"
        )
    if videos.num_rows:
        PrivatePublicNetwork(settings, len(classes), run.config.seed)
    return with_roles(videos, settings.held_out, run.config.seed), tables.empty("private_public")


def _kept(run: StageRun, videos: pa.Table) -> tuple[pa.Table, pa.Table] | None:
    """The videos with their roles and the vectors that still stand, when the previous network does; it is copied over.

    None when there is no such network, when it was made by other settings, or when a class that it learned from has changed.
    """
    from rayrec.features.private_public.fitting import NETWORK, WEIGHTS

    before, folder = run.previous, run.previous_folder
    if before is None or folder is None or before.settings != run.settings or before.rayrec != __version__:
        return None
    if not run.fs.get_file_info(f"{folder}/{WEIGHTS}").is_file:
        return None  # it had no video to learn from
    record = pq.read_table(f"{folder}/{VIDEOS}", filesystem=run.fs)
    at = pc.index_in(videos["video_id"], value_set=record["video_id"])
    roles = pc.fill_null(record["role"].take(at), REST)
    learned = pc.not_equal(roles, REST)
    now, then = (pc.fill_null(column, "") for column in (videos["class"], record["class"].take(at)))
    if pc.any(pc.and_(learned, pc.not_equal(now, then))).as_py():
        log.info("private_public: classes that the network learned from have changed: trained anew")
        return None
    for name in (NETWORK, REPORT, CURVES, WEIGHTS):
        write_whole(run.fs, f"{run.folder}/{name}", read_whole(run.fs, f"{folder}/{name}"))
    same = videos.filter(pc.fill_null(pc.equal(videos["file_version"], record["file_version"].take(at)), False))["video_id"]
    old = read_parts(run.fs, f"{folder}/private_public", "private_public")
    vectors = old.filter(pc.is_in(old["video_id"], value_set=same))
    labels = pa.nulls(videos.num_rows, pa.int32())
    log.info(
        "private_public: the network is kept, %d of %d videos are new or changed", videos.num_rows - len(same), videos.num_rows
    )
    return videos.append_column("role", roles).append_column("label", labels), vectors


# --- decoding -------------------------------------------------------------------------------------------------------------------


class InputDecoder:
    """The actor that decodes."""

    def __init__(self, settings: PrivatePublic) -> None:
        self.settings = settings

    def __call__(self, rows: pa.Table) -> pa.Table:
        return read_inputs(rows, self.settings)


def _decoded(pending: pa.Table, settings: PrivatePublic) -> Iterator[pa.Table]:
    """Rows of INPUTS, `PART_VIDEOS` at a time, in the order of the pending videos."""
    if not pending.num_rows:
        return
    wanted = pending.select(["video_id", "uri", "role", "label"])
    size = max(1, min(PART_VIDEOS, -(-pending.num_rows // (2 * settings.decoders))))
    blocks = [wanted.slice(start, size) for start in range(0, pending.num_rows, size)]
    with ray.data.DataContext.current(quiet_context()):
        decoded = ray.data.from_arrow(blocks).map_batches(
            InputDecoder,
            fn_constructor_args=(settings,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=settings.decoders),
            num_cpus=1,
        )
        for rows in decoded.iter_batches(batch_size=PART_VIDEOS, batch_format="pyarrow"):
            yield rows.cast(INPUTS)


# --- training and computing -----------------------------------------------------------------------------------------------------


def _train_on_ray(run: StageRun, settings: PrivatePublic, classes: list[str]) -> None:
    task = {
        "workspace": run.workspace.uri,
        "folder": run.folder,
        "settings": dump(settings),
        "classes": classes,
        "seed": run.config.seed,
    }
    storage = f"{run.workspace.uri}/private_public/{run.version}/ray"
    if settings.workers:
        connect(run.config)
    train_on_ray(_work, task, "network", storage, settings.workers, settings.gpus_per_worker)


def _work(task: dict[str, Any]) -> None:
    """What each worker does: train, unless the network is there already, and compute the vectors of its share of the videos."""
    from rayrec.features.private_public import fitting

    settings, fs, folder = PrivatePublic.model_validate(task["settings"]), Workspace(task["workspace"]).fs, task["folder"]
    place = this_worker()
    worker = fitting.Worker(place.rank, place.world_size, this_device(settings.gpus_per_worker))
    parts = {role: fitting.PartFiles.of(fs, f"{folder}/inputs/{role}") for role in ROLES}
    if fs.get_file_info(f"{folder}/{fitting.WEIGHTS}").is_file:
        network = fitting.load_network(fs, folder)[0].to(worker.device)
    else:
        network = _trained(task, settings, parts, fs, worker)
    for role in ROLES:
        fitting.write_vectors(network, parts[role], settings, f"{folder}/computed", worker)
    if worker.rank == 0:
        log.info("private_public: computed the vectors of %d videos", sum(sum(part.rows) for part in parts.values()))


def _trained(
    task: dict[str, Any],
    settings: PrivatePublic,
    parts: "dict[str, fitting.PartFiles]",
    fs: pafs.FileSystem,
    worker: "fitting.Worker",
) -> "PrivatePublicNetwork":
    """The network of the best epoch; rank 0 also saves it, and the report."""
    from rayrec.features.private_public import fitting
    from rayrec.features.private_public.network import PrivatePublicNetwork

    network = PrivatePublicNetwork(settings, len(task["classes"]), task["seed"]).to(worker.device)
    # A batch in which no video has sound leaves the audio branches without gradients.
    model = shared(network, worker, find_unused_parameters=True)

    def report(epoch: fitting.Epoch) -> None:
        if worker.rank == 0:
            log.info(
                "private_public: epoch %d, loss %.4f (similarity %.3f, difference %.3f), held-out loss %.4f, accuracy %.3f, %.1f/s",
                *(epoch.epoch, epoch.loss, epoch.similarity, epoch.difference),
                *(epoch.held_out_loss, epoch.held_out_accuracy, epoch.videos_per_s),
            )

    checkpoint = Checkpoint(fs, f"{task['folder']}/{fitting.CHECKPOINT}")
    epochs = fitting.fit(model, parts[TRAIN], parts[HELD_OUT], settings, task["seed"], checkpoint, report, worker)
    if worker.rank == 0:
        facts = fitting.report(epochs, len(task["classes"]), {role: sum(part.rows) for role, part in parts.items()})
        write_whole(fs, f"{task['folder']}/{REPORT}", json.dumps(facts, indent=1).encode())
        write_whole(fs, f"{task['folder']}/{CURVES}", learning_curves(epochs))
        fitting.save_network(network, settings, task["classes"], fs, task["folder"])
    return network


def learning_curves(epochs: "list[fitting.Epoch]") -> bytes:
    """A PNG: cross-entropy, the two other terms, and held-out accuracy, by epoch."""
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    loss, terms, accuracy = figure.subplots(1, 3)
    numbers = [epoch.epoch for epoch in epochs]
    for axes, names in (
        (loss, ("classification", "held_out_loss")),
        (terms, ("similarity", "difference")),
        (accuracy, ("held_out_accuracy",)),
    ):
        for name in names:
            axes.plot(numbers, [getattr(epoch, name) for epoch in epochs], marker="o", label=name.replace("_", " "))
        axes.set(xlabel="epoch", yscale="log" if axes is terms else "linear")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    return picture.getvalue()


# --- the end --------------------------------------------------------------------------------------------------------------------


def _finish(run: StageRun, videos: pa.Table, vectors: pa.Table, failed: pa.Table) -> None:
    """Write the table in the catalog's order, the rejects and the record of videos, and delete what was only needed on the way."""
    vectors = pa.concat_tables([vectors, read_parts(run.fs, f"{run.folder}/computed", "private_public")])
    videos = videos.sort_by("row")
    at = pc.index_in(videos["video_id"], value_set=vectors["video_id"]).drop_null()
    run.write("private_public", vectors.take(at))
    buffer = io.BytesIO()
    pq.write_table(videos.select(["video_id", "file_version", "role", "class"]), buffer)
    run.write_file(VIDEOS, buffer.getvalue())
    run.count(videos.num_rows, len(at), _rejects(videos, failed))
    for name in ("inputs", "computed", "ray"):
        if run.fs.get_file_info(f"{run.folder}/{name}").type == pafs.FileType.Directory:
            run.fs.delete_dir(f"{run.folder}/{name}")


def _rejects(videos: pa.Table, failed: pa.Table) -> pa.Table:
    at = pc.index_in(failed["video_id"], value_set=videos["video_id"])
    columns = {
        "stage": pa.array(["private_public"] * len(at), pa.string()),
        "source": videos["uri"].take(at),
        "reason": failed["error"],
    }
    return tables.conform("rejects", pa.table(columns | {"row": videos["row"].take(at), "id": failed["video_id"]}))


STAGE = Stage(
    "private_public",
    learn_private_public,
    reads=("catalog",),
    writes=("private_public",),
    settings=settings,
    sources=sources,
)
