"""Ray Train, as every stage that trains uses it: `workers` processes side by side, or the calling process alone.

A worker reads the workspace itself and gets nothing but plain values, so nothing large travels with the task.
"""

from collections.abc import Callable
from typing import Any

import torch
from ray import train as ray_train
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer, get_device, prepare_model
from torch import nn

from rayrec.errors import RayrecError
from rayrec.training.exchange import Worker


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
    """Run `work(task)` in each worker. With 0 workers it runs here (Ray Train's local mode): no process has to start.

    With `max_workers` Ray takes as many as the cluster has room for, from `workers` on. When a worker dies, all are started again,
    up to `restarts` times: `work` goes on from its own checkpoint. A `RayrecError` of theirs is raised here.
    """
    trainer = TorchTrainer(
        work,
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


def this_worker() -> Worker:
    context = ray_train.get_context()
    return Worker(context.get_world_rank(), max(context.get_world_size(), 1))


def this_device(gpus_per_worker: float) -> torch.device:
    return get_device() if gpus_per_worker else torch.device("cpu")


def shared(model: nn.Module, worker: Worker, **ddp: Any) -> nn.Module:
    """The model, in DDP where several train it; `ddp` are options of `DistributedDataParallel`."""
    return prepare_model(model, move_to_device=False, parallel_strategy_kwargs=ddp) if worker.world_size > 1 else model
