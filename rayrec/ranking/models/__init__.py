"""One file a model. The name rule is the registry: `ranker.model: wide_deep` is class `WideDeep` in `wide_deep.py`."""

import importlib
import pkgutil

from torch import nn

from rayrec.config import ConfigError, Ranker
from rayrec.ranking.fields import FieldTable
from rayrec.tables import did_you_mean


def build(settings: Ranker, users: FieldTable, items: FieldTable, sizes: dict[str, int]) -> nn.Module:
    """The network that `settings.model` names; `sizes` are the vocabularies' (`FieldEncoder.sizes`), users' and items' together.

    Raises `ConfigError`, with the nearest name, when there is no such model.
    """
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if settings.model not in known:
        raise ConfigError(f"ranker.model: there is no model {settings.model!r}{did_you_mean(settings.model, known)}")
    module = importlib.import_module(f"{__name__}.{settings.model}")
    return getattr(module, settings.model.title().replace("_", ""))(settings, users, items, sizes)
