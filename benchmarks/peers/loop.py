"""Our loop and a bare one over ready batches, an epoch of each in turn: the same model, optimizer and batches, and nothing else."""

import json
import time

import torch
from common import begin
from ours import setup

from rayrec.data.batches import Batch, training_batches
from rayrec.data.windows import HistoryGather, LatestClicks
from rayrec.ranking.fitting import fit
from rayrec.training.callbacks import TrainingCallback
from rayrec.training.trainer import CPU


def bare_epoch(model: torch.nn.Module, optimizer: torch.optim.Optimizer, ready: list[Batch]) -> float:
    """The seconds of it."""
    started = time.perf_counter()
    model.train()
    for batch in ready:
        optimizer.zero_grad()
        model.losses(batch).mean().backward()
        optimizer.step()
    return time.perf_counter() - started


def main() -> None:
    rows, settings = begin()
    data, bare, training = setup(rows, settings)
    _, looped, _ = setup(rows, settings)
    optimizer = bare.optimizer(training)
    gather = HistoryGather(data.clicks, LatestClicks(settings.history), CPU)
    ready = [batch for batch, _ in training_batches(data.train, gather, training, CPU, settings.seed, 1)]
    speeds: list[float] = []
    callback = TrainingCallback(on_epoch=lambda _: speeds.append(len(data.train) / bare_epoch(bare, optimizer, ready)))
    epochs = fit(looped, data, training, settings.seed, CPU, callback)
    print(json.dumps({"model": settings.model, "loop": [epoch.examples_per_s for epoch in epochs], "bare": speeds}))


if __name__ == "__main__":
    main()
