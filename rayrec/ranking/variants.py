"""A config with other values for the ranker and its training, as the stages `tune` and `compare` train them."""

from typing import Any

from rayrec.config import Config, ConfigError, with_values
from rayrec.ranking import models

SECTIONS = ("ranker", "training")


def variant(config: Config, values: dict[str, Any], source: str) -> Config:
    """The config with `values` (key -> value) in it.

    Raises `ConfigError`, whose message begins with `source`, where these values can't be used.
    """
    # A formula of pages orders none of the goals of a variant, which may have others.
    plain = config.model_copy(update={"selection": config.selection.model_copy(update={"score": None})})
    changed = with_values(plain, values, source).model_copy(update={"selection": config.selection})
    for key in values:
        if key.split(".")[0] not in SECTIONS:
            wanted = " and ".join(f"{section}.*" for section in SECTIONS)
            raise ConfigError(f"{source}: {key} can't differ, because all variants share the workspace's tables; only {wanted} can")
    try:
        models.check(changed.ranker)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return changed
