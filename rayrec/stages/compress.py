"""The stage `compress`: makes the compressed form of the image network that `features.image.compression` describes.

It learns from a folder of pictures, or from the covers of the table `features`. The trainings after pruning and after the sharing
of weights go on where a killed run stopped. The version keeps the file and a report; `place` copies the file to where `extract`
reads it, so that old versions may be deleted.
"""

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rayrec import tables
from rayrec.config import Compression, Config, ConfigError, ImageFeatures, dump, settings_of
from rayrec.features.media.files import file_versions
from rayrec.features.origins import weights_in_words
from rayrec.serving.cluster.room import check_room
from rayrec.stages.extract import check_image_weights
from rayrec.workspace.files import from_json, open_filesystem, read_whole, to_json, write_whole, writing
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    import torch

    from rayrec.features.compression import fitting
    from rayrec.features.compression.pictures import Pictures
    from rayrec.features.networks import FeatureNetwork
    from rayrec.stages.on_ray.training import Task
    from rayrec.training.exchange import Worker

PRUNED, SHARED = PHASES = ("pruned", "shared")
NETWORK, REPORT = "network.rrz", "report.json"
CHECKPOINT, WEIGHTS, FACTS = "checkpoint.pt", "network.safetensors", "facts.json"
CALIBRATION = 512  # pictures whose activations give the ranges of the 8-bit integers
KEPT_SETTINGS = {"file", "int8", "gpus"}  # that change nothing in the file

log = logging.getLogger(__name__)


def compress(run: StageRun) -> None:
    """The work of the stage. Raises `ConfigError` for weights that can't be loaded, and for too few pictures."""
    from rayrec.stages.on_ray.training import Processes, train_and_log

    settings = _compression(run.config)
    gpus = settings.gpus
    processes = Processes("features.image.compression", 1 if gpus else 0, gpus)
    epochs = {PRUNED: settings.epochs, SHARED: settings.sharing_epochs}
    for phase in PHASES:
        task = {"config": dump(run.config), "phase": phase, "top": run.folder}
        train_and_log(run, _work, task, f"{run.folder}/{phase}", f"compress, {phase}", epochs[phase], processes)
    facts = from_json(read_whole(run.fs, f"{run.folder}/{SHARED}/{FACTS}"))
    for phase in PHASES:
        run.fs.delete_dir(f"{run.folder}/{phase}")
    rejects = pa.Table.from_pylist(
        [{"stage": "compress", "source": path, "reason": reason} for path, reason in facts["faults"]],
        pa.schema([(name, tables.TEXT) for name in ("stage", "source", "reason")]),
    )
    run.count(facts["pictures"] + rejects.num_rows, facts["pictures"], tables.conform("rejects", rejects))


def settings(config: Config) -> dict[str, Any]:
    """What the file depends on."""
    image, compression = _image(config), _compression(config)
    files = [] if image.weights in ("DEFAULT", "none") else [image.weights]
    return settings_of(image.model_copy(update={"compression": None})) | {
        "Compression": compression.model_dump(mode="json", exclude=KEPT_SETTINGS),
        "weights": file_versions(files),
    }


def sources(workspace: Workspace, config: Config) -> list[Any]:
    """The version of every picture in the folder; where there is none, what covers come from.

    That is not the version of the table `features`, which is another one as soon as `extract` has used the compressed network.
    """
    from rayrec.features.compression.pictures import paths_below

    if (folder := _compression(config).pictures) is not None:
        return sorted(file_versions(map(str, paths_below(folder))).items())
    features = workspace.manifest("extract")
    return [] if features is None else [features.inputs, features.tables, features.settings.get("cover_side")]


def place(workspace: Workspace, folder: str, config: Config) -> str:
    """Copy the file of a version to where the config wants it, unless it is there. Returns that place."""
    target = _compression(config).file
    data = workspace.read_file(f"{folder}/{NETWORK}")
    with writing(target, "features.image.compression.file"):
        fs, path = open_filesystem(target)
        if not fs.get_file_info(path).is_file or read_whole(fs, path) != data:
            write_whole(fs, path, data)
    return target


# --- the work of each phase -----------------------------------------------------------------------------------------------------


def _work(task: "Task", worker: "Worker", device: "torch.device") -> None:
    """One of the phases, unless it is done already."""
    import safetensors.torch

    from rayrec.features.compression import fitting
    from rayrec.stages.on_ray.training import reported
    from rayrec.workspace.checkpoint import Checkpoint

    config, fs, folder = Config.model_validate(task["config"]), Workspace(task["workspace"]).fs, task["folder"]
    if fs.get_file_info(f"{folder}/{FACTS}").is_file:
        return
    job, faults = _job(config, task["workspace"], device)
    network, checkpoint = copy.deepcopy(job.original), Checkpoint(fs, f"{folder}/{CHECKPOINT}")
    with reported(task, worker) as callback:
        where = fitting.Place(device, callback, checkpoint)
        if task["phase"] == PRUNED:
            fitting.pruned(network, fitting.kept_shares(network, job), job, where)
            write_whole(fs, f"{folder}/{WEIGHTS}", safetensors.torch.save(_state(network)))
        else:
            network.load_state_dict(safetensors.torch.load(read_whole(fs, f"{task['top']}/{PRUNED}/{WEIGHTS}")))
            fitting.shared(network, job, where)
            _write(network, job, config, fs, task["top"])
    write_whole(fs, f"{folder}/{FACTS}", to_json({"pictures": len(job.train) + len(job.held_out), "faults": faults}))


def _job(config: Config, workspace: str, device: "torch.device") -> "tuple[fitting.Task, list[tuple[str, str]]]":
    """The original network and the pictures, and the path and fault of each picture that can't be read."""
    from rayrec.features.compression import fitting
    from rayrec.features.image import image_network

    image, compression = _image(config), _compression(config)
    original = image_network(image.model_copy(update={"compression": None}), config.seed).to(device)
    pictures, faults = _pictures(config, workspace, original)
    if compression.objective == "labels" and pictures.labels is None:
        raise ConfigError(
            "features.image.compression.objective=labels: the pictures have no classes; put them into a folder for each class "
            "below `pictures`, two or more, or set objective to original"
        )
    train, held_out = pictures.split(compression.held_out, config.seed)
    return fitting.Task(original, train, held_out, compression, config.seed), faults


def _pictures(config: Config, workspace: str, network: "FeatureNetwork") -> "tuple[Pictures, list[tuple[str, str]]]":
    from rayrec.features.compression.pictures import from_covers, read_folder

    compression, shape = _compression(config), (network.size, network.resize)
    if compression.pictures is not None:
        return read_folder(compression.pictures, *shape, compression.max_pictures, config.seed)
    features = Workspace(workspace).read_if_there("features", ["video_id", "cover_jpeg"])
    if features is None:
        raise ConfigError(
            "features.image.compression.pictures: there are no covers to learn from yet; name a folder of pictures, or run "
            "`rayrec extract CONFIG features.image.compression=null` first"
        )
    return from_covers(features, *shape, compression.max_pictures, config.seed), []


def _write(network: "FeatureNetwork", job: "fitting.Task", config: Config, fs: Any, folder: str) -> None:
    """Write the file and the report."""
    import torch

    from rayrec.features.compression.loading import packed
    from rayrec.features.compression.report import losses_in_words, report

    cpu = torch.device("cpu")
    network, original = network.to(cpu), copy.deepcopy(job.original).to(cpu)
    pixels = torch.from_numpy(job.train.pixels[:CALIBRATION]).split(64)
    data = packed(network, _image(config), weights_in_words(_image(config), "features.image"), pixels)
    found = report(original, data, job.held_out)
    for sentence in losses_in_words(found):
        log.warning("compress: %s", sentence)
    write_whole(fs, f"{folder}/{REPORT}", to_json(found, indent=1))
    write_whole(fs, f"{folder}/{NETWORK}", data)


def _state(network: "FeatureNetwork") -> "dict[str, torch.Tensor]":
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


# --- the config -----------------------------------------------------------------------------------------------------------------


def _image(config: Config) -> ImageFeatures:
    assert config.features.image is not None  # `check` has seen it
    return config.features.image


def _compression(config: Config) -> Compression:
    found = _image(config).compression
    assert found is not None
    return found


def check(config: Config) -> None:
    """Raises `ConfigError` if the config lacks the section, for a missing package or folder, and for more GPUs than there are."""
    image = config.features.image
    if image is None or image.compression is None:
        raise ConfigError(
            "features.image.compression: the config has no such section; add `compression: { file: image-network.rrz }` below "
            "features.image to make that file"
        )
    check_image_weights(image.model_copy(update={"compression": None}))
    if (folder := image.compression.pictures) is not None and not Path(folder).expanduser().is_dir():
        raise ConfigError(f"features.image.compression.pictures={folder}: there is no such folder")
    check_room("features.image.compression.gpus", 1, gpus=image.compression.gpus)


STAGE = Stage(
    "compress",
    compress,
    settings=settings,
    sources=sources,
    check=check,
)
