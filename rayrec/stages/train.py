"""The stage `train`: the loop inside Ray Train.

With `training.workers: 0` it runs in the calling process, which spares the start of others; with more it runs in that many on the
cluster. Either way each worker reads the workspace itself and goes on from the checkpoint that it finds in the stage's unfinished
version: after the death of a worker, and after that of the whole run.
"""

import io
from contextlib import nullcontext
from typing import Any

import pyarrow.fs as pafs
from matplotlib.figure import Figure

from rayrec.config import Config, ConfigError, Ranker, dump, settings_of
from rayrec.data.fields import DataError
from rayrec.data.loading import MAY_READ, RANKER, RANKER_WITHOUT_TOPICS, READS
from rayrec.ranking import models
from rayrec.ranking.scorer import SCORER
from rayrec.stages.on_ray.cluster import connect
from rayrec.stages.on_ray.streaming import training_data, write_blocks
from rayrec.stages.on_ray.training import this_device, this_worker, train_on_ray
from rayrec.training import trackers
from rayrec.training.progress import ProgressFile, ProgressReport, followed, raise_mistake
from rayrec.training.trainer import NO_CALLBACK, DivergedError, Epoch, train_ranker
from rayrec.workspace.checkpoint import Checkpoint
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace

PROGRESS, EXAMPLES = "progress.json", "examples"


def train(run: StageRun) -> None:
    """The work of the stage: a trained `Scorer` for each arm, its epochs as JSON, and a picture of the learning curves."""
    config = run.config
    arms = {RANKER: config.ranker}
    if config.training.without_topics and config.ranker.topics and run.workspace.has("topics"):
        arms[RANKER_WITHOUT_TOPICS] = config.ranker.model_copy(update={"topics": False})
    models.check(config.ranker)
    mlflow = trackers.check(config, run.workspace)
    write_blocks(run.workspace, config, f"{run.folder}/{EXAMPLES}")
    curves = {arm: _train_on_ray(run, arm, ranker, mlflow) for arm, ranker in arms.items()}
    run.write_file("learning_curves.png", learning_curves(curves))
    if run.fs.get_file_info(f"{run.folder}/{EXAMPLES}").type == pafs.FileType.Directory:
        run.fs.delete_dir(f"{run.folder}/{EXAMPLES}")
    rows = run.workspace.rows("interactions")
    run.count(rows_in=rows, rows_out=rows)


def settings(config: Config) -> dict[str, Any]:
    """What the stage depends on: nothing that only says where its progress goes, or how often it is saved."""
    found = settings_of(config.split, config.ranker, config.training)
    found["Training"] = {
        name: value for name, value in found["Training"].items() if name not in ("log_to", "checkpoint_s", "restarts")
    }
    return found


def learning_curves(curves: dict[str, list[Epoch]]) -> bytes:
    """A PNG: training loss and validation AUC by epoch, a line for each arm."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, auc = figure.subplots(1, 2)
    for arm, epochs in curves.items():
        loss.plot([e.epoch for e in epochs], [e.loss for e in epochs], marker="o", label=arm)
        auc.plot([e.epoch for e in epochs], [e.validation_auc for e in epochs], marker="o", label=arm)
    loss.set(xlabel="epoch", ylabel="training log loss")
    auc.set(xlabel="epoch", ylabel="validation AUC")
    auc.legend()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    return picture.getvalue()


def _train_on_ray(run: StageRun, arm: str, ranker: Ranker, mlflow: str | None) -> list[Epoch]:
    """The arm's epochs; its scorer is in the stage's folder."""
    training, folder = run.config.training, f"{run.folder}/{arm}"
    file = ProgressFile(run.fs, f"{folder}/{PROGRESS}")
    if run.fs.get_file_info(f"{folder}/{SCORER}").is_file:  # by an earlier run, which was killed later
        return file.read().epochs
    task = {
        "workspace": run.workspace.uri,
        "folder": folder,
        "config": dump(run.config.model_copy(update={"ranker": ranker})),
        "examples": f"{run.folder}/{EXAMPLES}",
        "mlflow": mlflow,
    }
    storage = f"{run.workspace.uri}/train/{run.version}/ray"
    if training.workers:
        connect(run.config)
    with followed(file, arm.replace("_", " "), training.epochs):
        train_on_ray(_work, task, arm, storage, training.workers, training.gpus_per_worker, training.max_workers, training.restarts)
    raise_mistake(file.read())
    return file.read().epochs


def _work(task: dict[str, Any]) -> None:
    """What each worker does. The first one saves the scorer of the best epoch."""
    config = Config.model_validate(task["config"])
    workspace, worker, folder = Workspace(task["workspace"]), this_worker(), task["folder"]
    device = this_device(config.training.gpus_per_worker)
    checkpoint = Checkpoint(workspace.fs, f"{folder}/checkpoint.pt")
    file = ProgressFile(workspace.fs, f"{folder}/{PROGRESS}")
    try:
        data = training_data(workspace, config, task["examples"])
        with trackers.tracked(config, folder, task["mlflow"]) if worker.rank == 0 else nullcontext(NO_CALLBACK) as tracker:
            callback = trackers.together([file.callback(), tracker]) if worker.rank == 0 else NO_CALLBACK
            scorer, _ = train_ranker(data, config.ranker, config.training, config.seed, device, callback, worker, checkpoint)
    except (ConfigError, DataError, DivergedError) as error:
        # All workers come to the same: not a failure that another start mends.
        if worker.rank == 0:
            file.write(ProgressReport(mistake=str(error)))
        return
    if worker.rank == 0:
        scorer.save(workspace.fs, folder)
        checkpoint.delete()


STAGE = Stage("train", train, reads=READS, may_read=MAY_READ, settings=settings)
