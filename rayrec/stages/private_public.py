"""The stage `private_public`: trains a network on catalog and media, and computes its global feature of every readable video.

Ray Data decodes the media once, into compact part files by role (`train`, `held_out`, `rest`), each a random sample of its role.
The network is then trained on them, in this process (`workers: 0`) or in several, and computes the vectors. Decoding, training and
computing each go on where a killed run stopped; the part files are deleted at the end.

A trained network is kept for as long as its settings and the classes of the videos that it learned from stay the same: videos that
are added, changed or removed are only decoded and run through it. The vectors of one network can be compared with each other and
with no others, so training anew would redo the topics and every ranker for each new video. `--force` trains anew on all videos.
"""

import io
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec import __version__, tables
from rayrec.config import Config, ConfigError, PrivatePublic, dump
from rayrec.features.media.files import file_versions
from rayrec.features.origins import private_public_in_words
from rayrec.features.private_public.inputs import INPUTS, read_inputs
from rayrec.features.private_public.videos import HELD_OUT, REST, ROLES, TRAIN, catalog_videos, classes_of, with_roles
from rayrec.serving.cluster.connection import connect
from rayrec.serving.cluster.room import check_training
from rayrec.stages.extract import video_sources
from rayrec.workspace.files import read_whole, to_json, write_whole
from rayrec.workspace.parts import PartWriter, read_parts
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    import torch

    from rayrec.features.private_public import fitting
    from rayrec.features.private_public.network import PrivatePublicNetwork
    from rayrec.stages.on_ray.training import Processes, Task
    from rayrec.training.exchange import Worker

PART_VIDEOS = 32
PLACEMENT = {"decoders", "workers", "gpus_per_worker", "restarts"}  # settings of where the work is done, which do not redo it
VIDEOS, REPORT, CURVES = "videos.parquet", "report.json", "learning_curves.png"

log = logging.getLogger(__name__)


def learn_private_public(run: StageRun) -> None:
    """The work of the stage. Raises `ConfigError` before any work for weights that can't be loaded, or for too few classes."""
    settings = run.config.private_public
    assert settings is not None  # `check` has seen it
    videos = catalog_videos(run.read("catalog"))
    videos, vectors = _kept(run, videos) or _anew(run, videos, settings)
    parts = {role: PartWriter(run.fs, f"{run.folder}/inputs/{role}") for role in ROLES}
    done = pa.concat_arrays([*(part.done for part in parts.values()), vectors["video_id"].combine_chunks()])
    pending = videos.filter(pc.invert(pc.is_in(videos["video_id"], value_set=done)))
    failed = [INPUTS.empty_table()]
    decoded = videos.num_rows - pending.num_rows
    if pending.num_rows:
        from rayrec.stages.on_ray.training import await_workers

        log.info("private_public: %s", run.settings["networks"])
        connect(run.config)
        await_workers(run.config, _processes(settings))
    for rows in _decoded(pending, settings, run.config.features.decode_timeout_s):
        lost = pc.is_valid(rows["error"])
        failed.append(rows.filter(lost))
        for role, part in parts.items():
            part.add(rows.filter(pc.and_(pc.invert(lost), pc.equal(rows["role"], role))))
        decoded += rows.num_rows
        log.info("private_public: decoded %d of %d videos", decoded, videos.num_rows)
    if any(part.next for part in parts.values()):
        _train_on_ray(run, settings, classes_of(videos))
    _finish(run, videos, vectors, pa.concat_tables(failed))


def settings(config: Config) -> dict[str, Any]:
    """What the network depends on, the version of a weights file included."""
    section = config.private_public
    if section is None:
        return {}
    files = [section.weights] if section.weights not in ("none", "DEFAULT") else []
    return {
        "PrivatePublic": section.model_dump(mode="json", exclude=PLACEMENT),
        "weights": file_versions(files),
        "networks": private_public_in_words(section),
    }


# --- what is kept ---------------------------------------------------------------------------------------------------------------


def _anew(run: StageRun, videos: pa.Table, settings: PrivatePublic) -> tuple[pa.Table, pa.Table]:
    """The videos with their roles, and no vectors yet."""
    from rayrec.features.private_public.network import PrivatePublicNetwork  # imports torchvision, which takes 6 s

    known, classes = videos.num_rows - videos["class"].null_count, classes_of(videos)
    if videos.num_rows and (len(classes) < 2 or known < 4):
        raise ConfigError(
            "private_public: the network needs videos with a file and a primary_class, 4 or more of 2 or more classes, but "
            f"the catalog has {known}, of {len(classes)}. Add classes to the catalog, or remove the section `private_public`"
        )
    if videos.num_rows:
        PrivatePublicNetwork(settings, len(classes), run.config.seed)
    return with_roles(videos, settings.held_out, run.config.seed), tables.empty("private_public")


def _kept(run: StageRun, videos: pa.Table) -> tuple[pa.Table, pa.Table] | None:
    """The videos with their roles and the vectors that are still valid, when the previous network is; its files are copied.

    None when there is no such network, when it was made with other settings, or when a class that it learned from has changed.
    """
    from rayrec.features.private_public.fitting import NETWORK, WEIGHTS

    before, folder = run.previous, run.previous_folder
    if before is None or folder is None or before.settings != run.settings or before.rayrec != __version__:
        return None
    if not run.fs.get_file_info(f"{folder}/{WEIGHTS}").is_file:
        return None  # there was no video to learn from
    record = pq.read_table(f"{folder}/{VIDEOS}", filesystem=run.fs)
    at = pc.index_in(videos["video_id"], value_set=record["video_id"])
    roles = pc.fill_null(record["role"].take(at), REST)
    learned = pc.not_equal(roles, REST)
    now, then = (pc.fill_null(column, "") for column in (videos["class"], record["class"].take(at)))
    if pc.any(pc.and_(learned, pc.not_equal(now, then))).as_py():
        log.info("private_public: classes that the network learned from have changed, so it is trained anew")
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


def _decoded(pending: pa.Table, settings: PrivatePublic, timeout_s: float) -> Iterator[pa.Table]:
    """Rows of INPUTS, `PART_VIDEOS` at a time, in the order of the pending videos."""
    if not pending.num_rows:
        return  # so that Ray need not start
    import ray.data

    from rayrec.stages.on_ray.data import decoded, quiet_context

    wanted = pending.select(["video_id", "uri", "role", "label"])
    block = max(1, min(PART_VIDEOS, -(-pending.num_rows // (2 * settings.decoders))))
    with ray.data.DataContext.current(quiet_context()):
        inputs = decoded(wanted, read_inputs, settings, block, (1, settings.decoders), timeout_s)
        for rows in inputs.iter_batches(batch_size=PART_VIDEOS, batch_format="pyarrow"):
            yield rows.cast(INPUTS)


# --- training and computing -----------------------------------------------------------------------------------------------------


def _train_on_ray(run: StageRun, settings: PrivatePublic, classes: list[str]) -> None:
    """Train the network, unless it is there already, and compute the vectors of all decoded videos."""
    from rayrec.stages.on_ray.training import train_and_log

    task = {"settings": dump(settings), "classes": classes, "seed": run.config.seed}
    train_and_log(run, _work, task, run.folder, "private_public", settings.epochs, _processes(settings))


def _processes(settings: PrivatePublic) -> "Processes":
    from rayrec.stages.on_ray.training import Processes

    return Processes("private_public", settings.workers, settings.gpus_per_worker, restarts=settings.restarts)


def _work(task: "Task", worker: "Worker", device: "torch.device") -> None:
    """What each worker does: train, unless the network is there already, and compute the vectors of its share of the videos."""
    from rayrec.features.private_public import fitting

    settings, fs, folder = PrivatePublic.model_validate(task["settings"]), Workspace(task["workspace"]).fs, task["folder"]
    parts = {role: fitting.PartFiles.of(fs, f"{folder}/inputs/{role}") for role in ROLES}
    if fs.get_file_info(f"{folder}/{fitting.WEIGHTS}").is_file:
        network = fitting.load_network(fs, folder)[0].to(device)
    else:
        network = _trained(task, settings, parts, fs, worker, device)
    for role in ROLES:
        fitting.write_vectors(network, parts[role], settings, f"{folder}/computed", device, worker)
    if worker.rank == 0:
        log.info("private_public: computed the vectors of %d videos", sum(sum(part.rows) for part in parts.values()))


def _trained(
    task: "Task",
    settings: PrivatePublic,
    parts: "dict[str, fitting.PartFiles]",
    fs: pafs.FileSystem,
    worker: "Worker",
    device: "torch.device",
) -> "PrivatePublicNetwork":
    """The network of the best epoch. The first worker also saves it, and the report."""
    from rayrec.features.private_public import fitting
    from rayrec.features.private_public.learning_curves import learning_curves
    from rayrec.features.private_public.network import PrivatePublicNetwork
    from rayrec.stages.on_ray.training import reported
    from rayrec.workspace.checkpoint import Checkpoint

    classes, folder = task["classes"], task["folder"]
    network = PrivatePublicNetwork(settings, len(classes), task["seed"]).to(device)
    checkpoint = Checkpoint(fs, f"{folder}/{fitting.CHECKPOINT}")
    with reported(task, worker) as callback:
        epochs = fitting.fit(network, parts[TRAIN], parts[HELD_OUT], settings, task["seed"], device, callback, worker, checkpoint)
    if worker.rank == 0:
        facts = fitting.report(epochs, len(classes), {role: sum(part.rows) for role, part in parts.items()})
        write_whole(fs, f"{folder}/{REPORT}", to_json(facts, indent=1))
        write_whole(fs, f"{folder}/{CURVES}", learning_curves(epochs))
        fitting.save_network(network, settings, classes, fs, folder)
        checkpoint.delete()
    return network


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
        "stage": pa.array(["private_public"] * len(at), tables.TEXT),
        "source": videos["uri"].take(at),
        "reason": failed["error"],
    }
    return tables.conform("rejects", pa.table(columns | {"row": videos["row"].take(at), "id": failed["video_id"]}))


def check(config: Config) -> None:
    """Raises `ConfigError` if the config lacks the section, and for more workers or GPUs than there are."""
    if config.private_public is None:
        raise ConfigError("private_public: the config has no such section; add `private_public: {}` to train the network")
    check_training("private_public", config.private_public.workers, config.private_public.gpus_per_worker)


STAGE = Stage(
    "private_public",
    learn_private_public,
    reads=("catalog",),
    writes=("private_public",),
    settings=settings,
    sources=video_sources,
    check=check,
)
