"""A config with other values for the ranker and its training, as the stages `tune` and `compare` train them."""

from typing import Any

import torch

from rayrec.config import Config, ConfigError, Training, with_values
from rayrec.ranking import models
from rayrec.training.trainer import CPU

SECTIONS = ("ranker", "training")


def variant(config: Config, values: dict[str, Any], source: str) -> Config:
    """The config with `values` (key -> value) in it.

    Raises `ConfigError`, whose message begins with `source`, where these values can't be used.
    """
    changed = with_values(config, values, source)
    for key in values:
        if key.split(".")[0] not in SECTIONS:
            wanted = " and ".join(f"{section}.*" for section in SECTIONS)
            raise ConfigError(f"{source}: {key} can't differ, because all variants share the workspace's tables; only {wanted} can")
    try:
        models.check(changed.ranker)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return changed


def device_for(settings: Training) -> torch.device:
    """The device on which a process trains a variant."""
    return torch.device("cuda") if settings.gpus_per_worker else CPU
