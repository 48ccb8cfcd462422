"""The stage `train`: a trained ranker for each arm.

With `training.workers: 0` the training runs in the calling process, so that no other has to start; with more it runs in that many
processes on the cluster. Either way each worker reads its own shards of the encoded log and goes on from the checkpoint that it
finds in the unfinished version of the stage, whether a worker had died or the whole run.
"""

import io
from contextlib import nullcontext
from typing import Any

import torch
from matplotlib.figure import Figure

from rayrec.config import Config, ConfigError, Ranker, dump, settings_of
from rayrec.data.loading import MAY_READ, RANKER, RANKER_WITHOUT_TOPICS, READS, ranking_data
from rayrec.data.shards import EncodedLog
from rayrec.ranking import models
from rayrec.ranking.fitting import AUC, train_ranker
from rayrec.ranking.scorer import SCORER
from rayrec.serving.cluster.room import check_training
from rayrec.stages import encode
from rayrec.stages.on_ray.training import Processes, Task, await_workers, reported, train_and_log
from rayrec.training import trackers
from rayrec.training.callbacks import NO_CALLBACK, Epoch, together
from rayrec.training.exchange import Worker
from rayrec.training.progress import PROGRESS, ProgressFile
from rayrec.workspace.checkpoint import Checkpoint
from rayrec.workspace.stage import NEEDED, Stage, StageRun
from rayrec.workspace.versions import Workspace


def train(run: StageRun) -> None:
    """The work of the stage: writes a trained `Scorer` for each arm, its epochs as JSON, and a picture of the learning curves."""
    config = run.config
    arms = {RANKER: config.ranker}
    if config.training.without_topics and config.ranker.topics and run.workspace.has("topics"):
        arms[RANKER_WITHOUT_TOPICS] = config.ranker.model_copy(update={"topics": False})
    mlflow = trackers.check(config, run.workspace)
    await_workers(config, _processes(config))
    folder = run.input_folder("encode")
    curves = {arm: _train_arm(run, arm, ranker, folder, mlflow) for arm, ranker in arms.items()}
    run.write_file("learning_curves.png", learning_curves(curves))
    rows = EncodedLog.open(run.fs, folder).train_rows
    run.count(rows_in=rows, rows_out=rows)


def check(config: Config) -> None:
    """Raises `ConfigError` for an unknown model or option, and for more workers than shards or than there is room for."""
    models.check(config.ranker)
    workers = config.training.max_workers or config.training.workers
    if workers > config.encoding.shards:
        raise ConfigError(
            f"training.workers: {workers} workers can't share the {config.encoding.shards} shards of the log; set "
            f"encoding.shards to {workers} or more"
        )
    check_training("training", config.training.workers, config.training.gpus_per_worker)


def settings(config: Config) -> dict[str, Any]:
    """What the stage depends on. Where its progress goes and how often it is saved changes nothing in the result."""
    found = settings_of(config.split, config.ranker, config.training)
    found["Training"] = {
        name: value for name, value in found["Training"].items() if name not in ("log_to", "checkpoint_s", "restarts")
    }
    return found


def learning_curves(curves: dict[str, list[Epoch]]) -> bytes:
    """A PNG of the training loss and the validation AUC by epoch, with a line for each arm."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, auc = figure.subplots(1, 2)
    for arm, epochs in curves.items():
        loss.plot([e.epoch for e in epochs], [e.loss for e in epochs], marker="o", label=arm)
        auc.plot([e.epoch for e in epochs], [e.metrics[AUC] for e in epochs], marker="o", label=arm)
    loss.set(xlabel="epoch", ylabel="training log loss")
    auc.set(xlabel="epoch", ylabel="validation AUC")
    auc.legend()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    return picture.getvalue()


def _train_arm(run: StageRun, arm: str, ranker: Ranker, log_folder: str, mlflow: str | None) -> list[Epoch]:
    """The epochs of the arm, whose scorer is in the folder of the stage afterwards."""
    training, folder = run.config.training, f"{run.folder}/{arm}"
    if run.fs.get_file_info(f"{folder}/{SCORER}").is_file:  # an earlier run trained it and was killed later
        return ProgressFile(run.fs, f"{folder}/{PROGRESS}").read().epochs
    task = {
        "config": dump(run.config.model_copy(update={"ranker": ranker})),
        "log": log_folder,
        "mlflow": mlflow,
    }
    return train_and_log(run, _work, task, folder, arm, training.epochs, _processes(run.config))


def _processes(config: Config) -> Processes:
    training = config.training
    return Processes(
        "training", training.workers, training.gpus_per_worker, max_workers=training.max_workers, restarts=training.restarts
    )


def _work(task: Task, worker: Worker, device: torch.device) -> None:
    """What each worker does. The first one saves the scorer of the best epoch."""
    config, workspace, folder = Config.model_validate(task["config"]), Workspace(task["workspace"]), task["folder"]
    checkpoint = Checkpoint(workspace.fs, f"{folder}/checkpoint.pt")
    data = ranking_data(workspace, EncodedLog.open(workspace.fs, task["log"]), config.ranker, worker)
    tracked = trackers.tracked(config, folder, task["mlflow"]) if worker.rank == 0 else nullcontext(NO_CALLBACK)
    with reported(task, worker) as progress, tracked as tracker:
        callback = together([progress, tracker])
        scorer, _ = train_ranker(data, config.ranker, config.training, config.seed, device, callback, worker, checkpoint)
    if worker.rank == 0:
        scorer.save(workspace.fs, folder)
        checkpoint.delete()


STAGE = Stage(
    "train",
    train,
    reads=READS,
    may_read=MAY_READ,
    after=("encode",),
    settings=settings,
    check=check,
    log=NEEDED,
    first=(encode.STAGE,),
)
