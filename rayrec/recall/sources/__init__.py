"""Recall sources, one file each. The file name is the name in the config: `recall.sources: {topics: 1.0}` uses `topics.py`."""

import pkgutil

import numpy as np

from rayrec.config import Config, ConfigError, Recall, changed_settings
from rayrec.recall.items import ItemData
from rayrec.recall.source import Source
from rayrec.registry import find_class, read_options


def check(config: Config) -> None:
    """Raises `ConfigError`, with the nearest known name, for a source or an option that does not exist.

    So it does for a source that needs a collaborative model where the config has none. The arms of experiments count too.
    """
    arms = [arm for experiment in config.serving.experiments.values() for arm in experiment.arms.values() if arm.changes]
    for settings in [config.recall, *(changed_settings(config.recall, config.selection, arm.changes)[0] for arm in arms)]:
        for name, source in classes(settings).items():
            if source.is_collaborative and config.collaborative is None:
                raise ConfigError(
                    f"recall.sources.{name} needs a collaborative model, but the config has no section `collaborative`; add "
                    "`collaborative: {}` for the default model"
                )


def classes(settings: Recall) -> dict[str, type[Source]]:
    """The class of each source that `settings.sources` names. Raises `ConfigError` for one that does not exist, or its options."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    found: dict[str, type[Source]] = {}
    for name, source in settings.sources.items():
        found[name] = find_class(__name__, names, name, Source, key="recall.sources", kind="source")
        read_options(found[name].Options, source.options, f"recall.sources.{name}.options", f"source {name!r}")
    return found


def build(settings: Recall, items: ItemData) -> list[tuple[Source, int]]:
    """The sources of the config in their order, and the number of candidates that each may bring. Raises what `classes` raises."""
    ends = np.rint(np.cumsum([source.share for source in settings.sources.values()]) * settings.candidates).astype(int)
    counts = np.diff(ends, prepend=0).tolist()
    return [
        (source(settings, source.Options.model_validate(settings.sources[name].options), items), count)
        for (name, source), count in zip(classes(settings).items(), counts, strict=True)
    ]
