"""Ray Train, as every stage that trains uses it: `workers` processes side by side, or the calling process alone.

A worker reads the workspace itself and gets nothing but plain values, so nothing large travels with the task.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from rayrec.errors import RayrecError
from rayrec.training.exchange import SINGLE, Worker

_in_ray_train = False  # whether this process is one of Ray Train's workers


def train_on_ray(
    work: Callable[[dict[str, Any]], None],
    task: dict[str, Any],
    name: str,
    storage: str,
    workers: int,
    gpus_per_worker: float,
    max_workers: int | None = None,
    restarts: int = 0,
) -> None:
    """Run `work(task)` in each worker. With 0 workers it runs in this process, and Ray is not needed.

    With `max_workers` Ray takes as many as the cluster has room for, from `workers` on. When a worker dies, all are started again,
    up to `restarts` times: `work` goes on from its own checkpoint. A `RayrecError` of theirs is raised here.
    """
    if not workers:
        work(task)
        return
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        partial(_in_worker, work),
        train_loop_config=task,
        scaling_config=ScalingConfig(
            num_workers=(workers, max_workers) if max_workers else workers,
            use_gpu=gpus_per_worker > 0,
            resources_per_worker={"GPU": gpus_per_worker} if gpus_per_worker else None,
        ),
        run_config=RunConfig(name=name, storage_path=storage, failure_config=FailureConfig(max_failures=restarts)),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        mistake = next((failure for failure in error.worker_failures.values() if isinstance(failure, RayrecError)), None)
        raise mistake or error from error


def _in_worker(work: Callable[[dict[str, Any]], None], task: dict[str, Any]) -> None:
    global _in_ray_train
    _in_ray_train = True
    work(task)


def this_worker() -> Worker:
    if not _in_ray_train:
        return SINGLE
    from ray import train as ray_train

    context = ray_train.get_context()
    return Worker(context.get_world_rank(), max(context.get_world_size(), 1))


def this_device(gpus_per_worker: float) -> torch.device:
    if not gpus_per_worker:
        return torch.device("cpu")
    from ray.train.torch import get_device

    return get_device()


def shared(model: nn.Module, worker: Worker, **ddp: Any) -> nn.Module:
    """The model, in DDP where several train it; `ddp` are options of `DistributedDataParallel`."""
    if worker.world_size == 1:
        return model
    from ray.train.torch import prepare_model

    return prepare_model(model, move_to_device=False, parallel_strategy_kwargs=ddp)
