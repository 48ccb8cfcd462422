"""The stage `train`: the loop inside Ray Train.

With `training.workers: 0` it runs in the calling process, which spares the start of others; with more it runs in that many on the
cluster, joined by DDP. Either way each worker reads the workspace itself.
"""

import io
import json
import logging
from dataclasses import asdict
from typing import Any

import torch
from matplotlib.figure import Figure
from ray import train as ray_train

from rayrec.config import Config, Ranker, dump
from rayrec.ranking.scorer import Scorer
from rayrec.ray_workers import shared, this_device, this_worker, train_on_ray
from rayrec.training.data import RANKER, RANKER_WITHOUT_TOPICS, ranking_data
from rayrec.training.loop import Epoch, fit
from rayrec.workspace import StageRun, Workspace

log = logging.getLogger(__name__)


def train(run: StageRun) -> None:
    """The work of the stage: a trained `Scorer` for each arm, its epochs as JSON, and a picture of the learning curves."""
    config = run.config
    arms = {RANKER: config.ranker}
    if config.training.without_topics and config.ranker.topics and run.workspace.has("topics"):
        arms[RANKER_WITHOUT_TOPICS] = config.ranker.model_copy(update={"topics": False})
    for arm, ranker in arms.items():
        _train_on_ray(run, arm, ranker)
    curves = {arm: [Epoch(**epoch) for epoch in _read_json(run, f"{arm}/epochs.json")] for arm in arms}
    run.write_file("learning_curves.png", learning_curves(curves))
    data_rows = run.read("interactions").num_rows
    run.count(rows_in=data_rows, rows_out=data_rows)


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


def _train_on_ray(run: StageRun, arm: str, ranker: Ranker) -> None:
    training = run.config.training
    task = {
        "workspace": run.workspace.uri,
        "folder": f"{run.folder}/{arm}",
        "arm": arm,
        "config": dump(run.config),
        "ranker": dump(ranker),
    }
    storage = f"{run.workspace.uri}/train/{run.version}/ray"
    train_on_ray(_work, task, arm, storage, training.workers, training.gpus_per_worker)


def _work(task: dict[str, Any]) -> None:
    """What each worker does. Rank 0 saves the scorer of the best epoch."""
    config, ranker = Config.model_validate(task["config"]), Ranker.model_validate(task["ranker"])
    workspace, worker = Workspace(task["workspace"]), this_worker()
    data = ranking_data(workspace.read, lambda name: workspace.read(name) if workspace.has(name) else None, ranker, config.split)
    torch.manual_seed(config.seed)
    scorer = Scorer.build(ranker, data.user_encoder, data.item_encoder, data.users, data.items)
    device = this_device(config.training.gpus_per_worker)
    # The tables that sit in the model as buffers are the same everywhere: DDP need not send them around at each step.
    model = shared(scorer.to(device).model, worker, broadcast_buffers=False)

    def report(epoch: Epoch) -> None:
        if worker.rank == 0:
            log.info(
                "%s: epoch %d, loss %.4f, validation AUC %.4f, %.0f/s",
                *(task["arm"].replace("_", " "), epoch.epoch, epoch.loss, epoch.validation_auc, epoch.examples_per_s),
            )

    epochs = fit(model, data, ranker.history_length, config.training, config.seed, device, report, worker)
    if worker.rank == 0:
        scorer.save(workspace.fs, task["folder"])
        with workspace.fs.open_output_stream(f"{task['folder']}/epochs.json") as stream:
            stream.write(json.dumps([asdict(epoch) for epoch in epochs]).encode())
    ray_train.report(asdict(epochs[-1]))


def _read_json(run: StageRun, name: str) -> Any:
    with run.fs.open_input_file(f"{run.folder}/{name}") as stream:
        return json.loads(stream.read())
