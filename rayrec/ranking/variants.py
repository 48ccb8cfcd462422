"""A config with other values for the ranker and its training, as a trial of a search or an arm of a comparison has them."""

from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from rayrec.config import Config, ConfigError, Training, with_values
from rayrec.ranking import models
from rayrec.ranking.fitting import AUC, LOG_LOSS
from rayrec.training.callbacks import Epoch
from rayrec.training.trainer import CPU

SECTIONS = ("ranker", "training")


def variant(config: Config, values: dict[str, Any], source: str) -> Config:
    """The config with `values` (key -> value) in it. Raises `ConfigError`, which begins with `source`, where they can't be used."""
    changed = with_values(config, values, source)
    for key in values:
        if key.split(".")[0] not in SECTIONS:
            wanted = " and ".join(f"{section}.*" for section in SECTIONS)
            raise ConfigError(f"{source}: {key} can't differ: all share the tables that are there; only {wanted} can")
    try:
        models.check(changed.ranker)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return changed


def device_for(settings: Training) -> torch.device:
    return torch.device("cuda") if settings.gpus_per_worker else CPU


@dataclass(frozen=True)
class TrainingSummary:
    """How a training went, in a few numbers."""

    epochs: int
    best_epoch: int
    auc: float  # of the validation split, as the log loss, in the best epoch
    log_loss: float
    examples_per_s: float  # median of the epochs
    seconds: float  # of training steps, validation left out

    @classmethod
    def of(cls, epochs: list[Epoch], examples: int) -> "TrainingSummary":
        best = max(epochs, key=lambda epoch: epoch.metrics[AUC])
        speeds = [epoch.examples_per_s for epoch in epochs]
        seconds = sum(examples / speed for speed in speeds)
        return cls(len(epochs), best.epoch, best.metrics[AUC], best.metrics[LOG_LOSS], median(speeds), seconds)
