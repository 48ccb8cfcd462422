"""Runs a training in this process, or in several worker processes side by side with Ray Train. All stages that train use it.

A worker reads the workspace itself and receives nothing but plain values, so that nothing large travels with its task. The first
worker writes its progress to a file in the folder of what it trains; the process that waits for it reads the file and logs it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from rayrec.config import Config
from rayrec.errors import RayrecError
from rayrec.serving.cluster.connection import connect
from rayrec.serving.cluster.room import await_room
from rayrec.training.callbacks import NO_CALLBACK, Epoch, TrainingCallback
from rayrec.training.exchange import SINGLE, Worker
from rayrec.training.progress import PROGRESS, ProgressFile, logged
from rayrec.training.trainer import CPU
from rayrec.workspace.files import open_filesystem, read_whole, write_whole
from rayrec.workspace.stage import StageRun
from rayrec.workspace.stores import join_uri
from rayrec.workspace.versions import Workspace

Task = dict[str, Any]
Work = Callable[[Task, Worker, torch.device], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Processes:
    """Where a training runs. With `workers: 0` it is the calling process, so that no other has to start."""

    section: str  # of the config, as errors name it
    workers: int
    gpus_per_worker: float
    max_workers: int | None = None  # Ray takes as many as the cluster has room for, from `workers` to this number
    restarts: int = 0  # how often all workers are started again after one has died


def await_workers(config: Config, processes: Processes) -> None:
    """Waits for room for the workers, if there are any. A stage calls it before it prepares anything for them.

    Raises `ConfigError` if there is none.
    """
    if processes.workers:
        connect(config)
        _await_room(processes)


def _await_room(processes: Processes) -> None:
    gpus = processes.gpus_per_worker
    await_room(f"{processes.section}.workers", processes.workers, cpus=0 if gpus else 1, gpus=gpus)


def train_on_ray(work: Work, task: Task, name: str, storage: str, processes: Processes) -> None:
    """Run `work(task, worker, device)` in each worker. `storage` is the URI of a folder for Ray Train's own files.

    When a worker dies, all are started again, and `work` goes on from its own checkpoint. A `RayrecError` of `work` is raised here.
    """
    if processes.workers == 0:
        work(task, SINGLE, CPU)
        return
    fs, path = open_filesystem(join_uri(storage, f"{name}.error"))
    if fs.get_file_info(path).is_file:
        fs.delete_file(path)
    _run_workers(work, task, name, storage, processes)
    if fs.get_file_info(path).is_file:
        raise RayrecError(read_whole(fs, path).decode())


def train_and_log(run: StageRun, work: Work, task: Task, folder: str, name: str, epochs: int, processes: Processes) -> list[Epoch]:
    """`train_on_ray` for a stage: log under `name` what the training reports, and return its epochs.

    `folder` (inside the workspace's filesystem) is that of what is trained. `work` finds it in `task["folder"]`, the workspace in
    `task["workspace"]`, and gives `reported` to its trainer.
    """
    task = task | {"workspace": run.workspace.uri, "folder": folder}
    if processes.workers:
        connect(run.config)
    file = progress_file(task)
    with logged(file, name.replace("_", " "), epochs):
        train_on_ray(work, task, name, join_uri(run.workspace.uri, f"{run.stage.name}/{run.version}/ray"), processes)
    return file.read().epochs


def reported(task: Task, worker: Worker) -> AbstractContextManager[TrainingCallback]:
    """What `work` gives to the trainer while the block runs, so that its progress is logged."""
    return progress_file(task).written() if worker.rank == 0 else nullcontext(NO_CALLBACK)


def progress_file(task: Task) -> ProgressFile:
    return ProgressFile(Workspace(task["workspace"]).fs, f"{task['folder']}/{PROGRESS}")


def with_gpus(config: Config, gpus: float, work: Callable[..., Result]) -> Callable[..., Result]:
    """`work` as it is, or, for `gpus` above 0, as a Ray task for which the cluster reserves them. It asks for `reserved_device`."""
    if not gpus:
        return work

    def on_ray(*arguments: Any) -> Result:
        import ray

        connect(config)
        return ray.get(ray.remote(num_gpus=gpus)(work).remote(*arguments))

    return on_ray


def _run_workers(work: Work, task: Task, name: str, storage: str, processes: Processes) -> None:
    """Start the workers with Ray Train and wait until they are done."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    gpus = processes.gpus_per_worker
    fs, folder = open_filesystem(storage)  # Ray would not understand the options of a URI
    _await_room(processes)
    TorchTrainer(
        _in_worker,
        train_loop_config={"work": work, "task": task, "gpus": gpus, "error": join_uri(storage, f"{name}.error")},
        scaling_config=ScalingConfig(
            num_workers=(processes.workers, processes.max_workers) if processes.max_workers else processes.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"GPU": gpus} if gpus else None,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            storage_filesystem=fs,
            failure_config=FailureConfig(max_failures=processes.restarts),
        ),
    ).fit()


def _in_worker(arguments: dict[str, Any]) -> None:
    """The main function of each worker process."""
    from ray import train
    from ray.train.torch import get_device

    context = train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size())
    # By what Ray has reserved for this worker, not by what the machine has.
    device = get_device() if arguments["gpus"] else CPU
    try:
        arguments["work"](arguments["task"], worker, device)
    except RayrecError as error:
        # All workers read the same data and see the same losses, so that all end here: another start would not help.
        if worker.rank == 0:
            write_whole(*open_filesystem(arguments["error"]), str(error).encode())
