"""Reports a training to TensorBoard and MLflow through their own libraries: `training.log_to`.

A tracker is a `TrainingCallback`. It gets the settings as hyperparameters when the training starts, and a point for each metric at
the end of each epoch. A training that is resumed after a kill continues the same run of its tracker.
"""

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow.fs as pafs

from rayrec.config import Config, ConfigError, dump, need_package
from rayrec.training.callbacks import Epoch, TrainingCallback, together
from rayrec.workspace.versions import Workspace

EXPERIMENT = "rayrec"  # in MLflow
METRICS = ("loss", "validation_auc", "validation_log_loss", "examples_per_s")  # of a ranker, for TensorBoard's table of settings

log = logging.getLogger(__name__)


def check(config: Config, workspace: Workspace) -> str | None:
    """The address of MLflow for `tracked`, None where `log_to` lacks MLflow. Raises `ConfigError` for an impossible tracker."""
    wanted, address = config.training.log_to, os.environ.get("MLFLOW_TRACKING_URI")
    if "tensorboard" in wanted and not isinstance(workspace.fs, pafs.LocalFileSystem):
        raise ConfigError(
            f"training.log_to: TensorBoard's files need a local workspace, not {workspace.uri}; take another, or log to mlflow"
        )
    if "mlflow" not in wanted:
        return None
    need_package("mlflow", "mlflow", "training.log_to")
    if not address:
        raise ConfigError("training.log_to: set the environment variable MLFLOW_TRACKING_URI to the address of MLflow's server")
    return address


@contextmanager
def tracked(config: Config, folder: str, mlflow: str | None) -> Iterator[TrainingCallback]:
    """A callback for the first worker that reports to every tracker in `training.log_to`.

    `folder` is that of the arm; its last two parts name the run. `mlflow` is what `check` returned.
    """
    with ExitStack() as stack:
        callbacks = []
        if "tensorboard" in config.training.log_to:
            callbacks.append(stack.enter_context(_tensorboard(config, f"{folder}/tensorboard")))
        if mlflow is not None:
            callbacks.append(stack.enter_context(_mlflow(config, "/".join(folder.split("/")[-2:]), mlflow)))
        yield together(callbacks)


def hyperparameters(config: Config) -> dict[str, bool | int | float | str]:
    """The settings that shape a ranker, under the keys of overrides. Lists and nulls are written as JSON."""

    def flat(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, bool | int | float | str]]:
        for name, value in tree.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value if isinstance(value, bool | int | float | str) else json.dumps(value)

    sections = {"ranker": dump(config.ranker), "training": dump(config.training), "split": dump(config.split)}
    return {"seed": config.seed, **dict(flat(sections, ""))}


def _metrics(epoch: Epoch) -> dict[str, float]:
    """The loss, the speed and all metrics that exist: there is no AUC where all labels are the same."""
    values = {"loss": epoch.loss, "examples_per_s": epoch.examples_per_s} | epoch.metrics
    return {name: value for name, value in values.items() if math.isfinite(value)}


@contextmanager
def _tensorboard(config: Config, folder: str) -> Iterator[TrainingCallback]:
    from tensorboardX import SummaryWriter
    from tensorboardX.summary import hparams

    # The library names its files by the second and overwrites a file of the same name.
    with SummaryWriter(folder, filename_suffix=f".{time.time_ns()}") as writer:

        def on_epoch(epochs: list[Epoch]) -> None:
            for name, value in _metrics(epochs[-1]).items():
                writer.add_scalar(name, value, epochs[-1].epoch)
            writer.flush()

        # What `add_hparams` does, except that no folder of its own is made.
        for summary in hparams(hyperparameters(config), dict.fromkeys(METRICS))[:2]:
            writer.file_writer.add_summary(summary)
        yield TrainingCallback(on_epoch)


@contextmanager
def _mlflow(config: Config, name: str, address: str) -> Iterator[TrainingCallback]:
    """Continues the unfinished run of this name, or starts one. Once training runs, a failing server only causes warnings."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

    client = MlflowClient(address)
    known = client.get_experiment_by_name(EXPERIMENT)
    experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
    found = client.search_runs([experiment], f"attributes.run_name = '{name}' AND attributes.status != 'FINISHED'")
    run = (found[0] if found else client.create_run(experiment, run_name=name)).info.run_id
    client.update_run(run, "RUNNING")  # after a failure
    client.log_batch(run, params=[Param(key, str(value)) for key, value in hyperparameters(config).items()])

    def on_epoch(epochs: list[Epoch]) -> None:
        epoch, now = epochs[-1], time.time_ns() // 1_000_000
        with warned(f"epoch {epoch.epoch}"):
            client.log_batch(run, [Metric(key, value, now, epoch.epoch) for key, value in _metrics(epoch).items()])

    @contextmanager
    def warned(what: str) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            log.warning("MLflow did not take %s of run %s: %s", what, name, error)

    status = "FAILED"
    try:
        yield TrainingCallback(on_epoch)
        status = "FINISHED"
    finally:
        with warned("the end"):
            client.set_terminated(run, status)
