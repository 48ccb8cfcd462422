"""The stage `train`: a trained ranker for each arm.

With `training.workers: 0` the training runs in the calling process, so that no other has to start; with more it runs in that many
processes on the cluster. Either way each worker reads its own shards of the encoded log and goes on from the checkpoint that it
finds in the unfinished version of the stage, whether a worker had died or the whole run.
"""

import io
import logging
from contextlib import nullcontext
from typing import Any

import torch
from matplotlib.figure import Figure

from rayrec.config import Config, ConfigError, Ranker, dump, settings_of
from rayrec.data.loading import MAY_READ, RANKER, RANKER_WITHOUT_TOPICS, READS, ranking_data
from rayrec.data.shards import EncodedLog
from rayrec.ranking import models
from rayrec.ranking.fitting import AUC, train_ranker
from rayrec.ranking.model import RankingModel
from rayrec.ranking.scorer import SCORER
from rayrec.ranking.warm_start import WarmStart, save_optimizer
from rayrec.serving.cluster.room import check_training
from rayrec.stages import encode
from rayrec.stages.on_ray.training import Processes, Task, await_workers, reported, train_and_log
from rayrec.training import trackers
from rayrec.training.callbacks import NO_CALLBACK, Epoch, together
from rayrec.training.exchange import Worker
from rayrec.training.progress import PROGRESS, ProgressFile
from rayrec.workspace.checkpoint import Checkpoint
from rayrec.workspace.stage import NEEDED, Stage, StageRun
from rayrec.workspace.versions import Workspace, WorkspaceError

log = logging.getLogger(__name__)


def train(run: StageRun) -> None:
    """The work of the stage: writes a trained `Scorer` for each arm, its epochs as JSON, and a picture of the learning curves."""
    config = run.config
    arms = {RANKER: config.ranker}
    if config.training.without_topics and config.ranker.topics and run.workspace.has("topics"):
        arms[RANKER_WITHOUT_TOPICS] = config.ranker.model_copy(update={"topics": False})
    mlflow = trackers.check(config, run.workspace)
    await_workers(config, _processes(config))
    folder, base = run.input_folder("encode"), _published(run)
    curves = {arm: _train_arm(run, arm, ranker, folder, mlflow, base) for arm, ranker in arms.items()}
    run.write_file("learning_curves.png", learning_curves(curves))
    rows = EncodedLog.open(run.fs, folder).train_rows
    run.count(rows_in=rows, rows_out=rows)


def _published(run: StageRun) -> str | None:
    """The folder of this stage's version that was published last, if the training shall go on from it and there is one."""
    published = run.workspace.manifest("publish")
    if run.config.training.from_ is None:
        return None
    if published is None or "train" not in published.inputs:
        log.info("training.from: no ranker has been published yet, so the training begins from the start")
        return None
    version = published.inputs["train"]
    manifest = next((each for each in run.workspace.versions("train") if each.version == version), None)
    damage = "it is no longer there" if manifest is None else run.workspace.damage(manifest)
    if damage:
        raise WorkspaceError(
            f"training.from: the published ranker is that of train/{version}, but {damage}; set training.from to null to train "
            "a new ranker"
        )
    return f"{run.workspace.root}/train/{version}"


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
    # The order of goals counts, but not in the digest of a dict.
    return found | ({"goals": list(config.ranker.goals)} if config.ranker.goals else {})


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


def _train_arm(run: StageRun, arm: str, ranker: Ranker, log_folder: str, mlflow: str | None, base: str | None) -> list[Epoch]:
    """The epochs of the arm, whose scorer is in the folder of the stage afterwards."""
    training, folder = run.config.training, f"{run.folder}/{arm}"
    if run.fs.get_file_info(f"{folder}/{SCORER}").is_file:  # an earlier run trained it and was killed later
        return ProgressFile(run.fs, f"{folder}/{PROGRESS}").read().epochs
    task = {
        "config": dump(run.config.model_copy(update={"ranker": ranker})),
        "log": log_folder,
        "mlflow": mlflow,
        "base": f"{base}/{arm}" if base and run.fs.get_file_info(f"{base}/{arm}/{SCORER}").is_file else None,
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
    encoded_log = EncodedLog.open(workspace.fs, task["log"])
    start = WarmStart.load(workspace.fs, task["base"], config.ranker) if task["base"] else None
    if start is None:
        data = ranking_data(workspace, encoded_log, config.ranker, worker)
    else:
        data = ranking_data(workspace, encoded_log, config.ranker, worker, start.scorer, start.until)
        start.refuse_nothing_new(encoded_log.facts, len(data.recent or ()))
    until = encoded_log.facts.validation_at

    def keep(model: RankingModel, optimizer: torch.optim.Optimizer) -> None:
        if worker.rank == 0:
            save_optimizer(workspace.fs, folder, model, optimizer, until)

    tracked = trackers.tracked(config, folder, task["mlflow"]) if worker.rank == 0 else nullcontext(NO_CALLBACK)
    with reported(task, worker) as progress, tracked as tracker:
        callback = together([progress, tracker])
        scorer, _ = train_ranker(
            data, config.ranker, config.training, config.seed, device, callback, worker, checkpoint, start, keep
        )
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
