"""One file a model. The name rule is the registry: `ranker.model: wide_deep` is the `RankingModel` of `wide_deep.py`."""

import importlib
import pkgutil

from pydantic import ValidationError

from rayrec.config import ConfigError, Ranker
from rayrec.data.fields import Tables
from rayrec.errors import did_you_mean
from rayrec.ranking.model import RankingModel

NAMES = [module.name for module in pkgutil.iter_modules(__path__)]


def check(settings: Ranker) -> type[RankingModel]:
    """The class that `settings.model` names. Raises `ConfigError`, with the nearest name, for a model or an option there is not."""
    if settings.model not in NAMES:
        raise ConfigError(f"ranker.model: there is no model {settings.model!r}{did_you_mean(settings.model, NAMES)}")
    module = importlib.import_module(f"{__name__}.{settings.model}")
    (model,) = (
        found
        for found in vars(module).values()
        if isinstance(found, type) and found.__module__ == module.__name__ and issubclass(found, RankingModel)
    )
    options = model.Options.model_fields
    for name in settings.options:
        if name not in options:
            raise ConfigError(f"ranker.options: model {settings.model!r} has no option {name!r}{did_you_mean(name, options)}")
    try:
        model.Options.model_validate(settings.options)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"ranker.options.{'.'.join(map(str, first['loc']))}: {first['msg']} (got {first['input']!r})") from error
    return model


def build(settings: Ranker, tables: Tables) -> RankingModel:
    """An untrained network of the class that `settings.model` names."""
    model = check(settings)
    return model(settings, model.Options.model_validate(settings.options), tables)
