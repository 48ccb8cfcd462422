"""The stage `collaborative`: fits a model of who liked what to the training split of the log, and writes what recall needs of it.

Its folder holds

    model/               the model, as `rayrec.collaborative.saving` loads it
    neighbours.arrow     a row for each item index, 0 included, in order: `item` int32, `neighbours` int32 [K], the best first and
                         0 where there are fewer, and `weights` float32 [K], above 0, or 0 where there is no neighbour
    factors.safetensors  only of models with vectors: `clicked` and `candidate`, float32 [I, S]. A user is the sum of the `clicked`
                         vectors of what they clicked, and likes an item by the dot product of that sum with its `candidate` vector

Items are the indices of the encoded log, as in rankers and bundles: index 0 is "no item", and its rows are zeros.
"""

from dataclasses import replace
from typing import Any

import torch

from rayrec.collaborative import models
from rayrec.collaborative.exports import write_factors, write_neighbours
from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import Fitting
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
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace

FOLDER = "model"
NOT_LEARNED = {"workers", "gpus_per_worker", "restarts"}  # any number of processes learns the same model


def collaborate(run: StageRun) -> None:
    """The work of the stage. A run that was killed goes on from its checkpoint, as do workers that are started again."""
    settings = wanted(run.config)
    processes = Processes("collaborative", settings.workers, settings.gpus_per_worker, restarts=settings.restarts)
    await_workers(run.config, processes)
    task = {"config": dump(run.config), "log": run.input_folder("encode")}
    if not run.fs.get_file_info(f"{run.folder}/{FOLDER}/{MODEL}").is_file:
        train_and_log(run, _work, task, run.folder, run.stage.name, models.build(settings).epochs, processes)
    rows = EncodedLog.open(run.fs, task["log"]).train_rows
    run.count(rows_in=rows, rows_out=rows)


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
        encoded = EncodedLog.open(workspace.fs, task["log"])
        feedback = Feedback.read(workspace, encoded, model.modalities)
        if isinstance(model, RatingModel):
            pieces = LogPieces.of(workspace.fs, workspace.part_digests("interactions"))
            feedback = replace(feedback, ratings=read_ratings(workspace, pieces, encoded, config.split, "validation"))
        model.fit(feedback, Fitting(config.seed, device, worker, callback, checkpoint))
    if worker.rank == 0:
        write_neighbours(workspace.fs, folder, model, feedback.items, settings.neighbours)
        if factors := model.factors():
            write_factors(workspace.fs, folder, factors)
        save(workspace.fs, f"{folder}/{FOLDER}", settings, model)
        checkpoint.delete()


def check(config: Config) -> None:
    """Raises `ConfigError` without the section, for an unknown model or option, and for more workers or GPUs than there are."""
    settings = wanted(config)
    models.build(settings)
    check_training("collaborative", settings.workers, settings.gpus_per_worker)


def settings(config: Config) -> dict[str, Any]:
    """What the stage depends on."""
    return {"Collaborative": config.collaborative and config.collaborative.model_dump(mode="json", exclude=NOT_LEARNED)}


STAGE = Stage(
    "collaborative",
    collaborate,
    reads=("catalog", "interactions"),
    may_read=("vectors", "users"),
    after=("encode",),
    settings=settings,
    check=check,
    first=(encode.STAGE,),
)
