"""The stage `collaborative`: fits a model of who liked what to the training split of the log, and writes what recall needs of it.

The table `collaborative_items` has what goes with each video and, of models with vectors, those by which recall serves it. The
folder `model/` of its version holds the model, as `rayrec.collaborative.saving` loads it.
"""

from dataclasses import replace
from typing import Any

import torch

from rayrec.collaborative import models
from rayrec.collaborative.exports import TABLE, item_table
from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import CollaborativeModel, Fitting
from rayrec.collaborative.rating_log import read_ratings
from rayrec.collaborative.rating_model import RatingModel
from rayrec.collaborative.saving import MODEL, save
from rayrec.config import Collaborative, Config, ConfigError, dump
from rayrec.data.pieces import LogPieces
from rayrec.data.shards import EncodedLog
from rayrec.serving.cluster.room import check_training
from rayrec.stages import encode
from rayrec.stages.on_ray.training import Processes, Task, await_workers, reported, train_and_log
from rayrec.training.exchange import Worker
from rayrec.workspace.checkpoint import Checkpoint
from rayrec.workspace.parts import write_part
from rayrec.workspace.stage import NEEDED, Stage, StageRun
from rayrec.workspace.versions import Workspace

FOLDER = "model"
NOT_LEARNED = {"workers", "gpus_per_worker", "restarts"}  # any number of processes learns the same model


def collaborate(run: StageRun) -> None:
    """The work of the stage. A run that was killed goes on from its checkpoint, as do workers that are started again."""
    settings = wanted(run.config)
    processes = Processes("collaborative", settings.workers, settings.gpus_per_worker, restarts=settings.restarts)
    await_workers(run.config, processes)
    folder = run.input_folder("encode")
    task = {"config": dump(run.config), "log": folder}
    if not run.fs.get_file_info(f"{run.folder}/{FOLDER}/{MODEL}").is_file:
        train_and_log(run, _work, task, run.folder, run.stage.name, models.build(settings).epochs, processes)
    log = EncodedLog.open(run.fs, folder)
    run.record_parts(TABLE, len(log.items.ids))
    run.count(rows_in=log.train_rows, rows_out=len(log.items.ids))


def wanted(config: Config) -> Collaborative:
    """The section. Raises `ConfigError` if there is none."""
    if config.collaborative is None:
        raise ConfigError("collaborative: the config has no such section; add `collaborative: {}` to fit a model of who liked what")
    return config.collaborative


def _work(task: Task, worker: Worker, device: torch.device) -> None:
    """What each worker does. The first one writes the files, the model last."""
    config, workspace, folder = Config.model_validate(task["config"]), Workspace(task["workspace"]), task["folder"]
    settings, checkpoint = wanted(config), Checkpoint(workspace.fs, f"{folder}/checkpoint.pt")
    model = models.build(settings)
    with reported(task, worker) as callback:
        log = EncodedLog.open(workspace.fs, task["log"])
        feedback = Feedback.read(workspace, log, model.modalities)
        if isinstance(model, RatingModel):
            pieces = LogPieces.of(workspace.fs, workspace.part_digests("interactions"))
            feedback = replace(feedback, ratings=read_ratings(workspace, pieces, log, config.split, "validation"))
        model.fit(feedback, Fitting(config.seed, device, worker, callback, checkpoint))
    if worker.rank == 0:
        rows = item_table(model, feedback, log.items.ids, settings.neighbours)
        write_part(workspace.fs, f"{folder}/{TABLE}", TABLE, 0, rows)
        save(workspace.fs, f"{folder}/{FOLDER}", settings, model)
        checkpoint.delete()


def check(config: Config) -> None:
    """Raises `ConfigError` without the section, for an unknown model or option, and for more workers or GPUs than there are.

    So it does for a model without vectors if recall asks for them.
    """
    settings = wanted(config)
    model = models.build(settings)
    if "user_vector" in config.recall.sources and type(model).factors is CollaborativeModel.factors:
        raise ConfigError(
            f"recall.sources.user_vector: the model {settings.model!r} has no vectors; choose a `collaborative.model` that has "
            "some, such as pure_svd, or the source item_neighbours"
        )
    check_training("collaborative", settings.workers, settings.gpus_per_worker)


def settings(config: Config) -> dict[str, Any]:
    """What the stage depends on."""
    return {"Collaborative": config.collaborative and config.collaborative.model_dump(mode="json", exclude=NOT_LEARNED)}


STAGE = Stage(
    "collaborative",
    collaborate,
    reads=("catalog", "interactions"),
    may_read=("vectors", "users"),
    writes=(TABLE,),
    after=("encode",),
    settings=settings,
    check=check,
    log=NEEDED,
    first=(encode.STAGE,),
)
