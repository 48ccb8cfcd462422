"""The models, one in each file, found by file name: `ranker.model: wide_deep` is the `RankingModel` of `wide_deep.py`.

`ranker.model: module:Class` names a model outside this package, in a module that Python can import: one that is installed, on the
PYTHONPATH, or in the working directory. A bundle contains this name but never the code, so every machine that serves the bundle
needs the module too.
"""

import importlib
import os
import pkgutil
import re
import sys

from pydantic import ValidationError

from rayrec.config import ConfigError, Ranker
from rayrec.data.fields import Tables
from rayrec.errors import did_you_mean
from rayrec.ranking.model import RankingModel

NAMES = [module.name for module in pkgutil.iter_modules(__path__)]
OUTSIDE = re.compile(r"([a-z_]\w*(?:\.[a-z_]\w*)*):([a-z_]\w*)", re.ASCII | re.IGNORECASE)  # module:Class, never a path


def check(settings: Ranker) -> type[RankingModel]:
    """The class that `settings.model` names. Raises `ConfigError` for an unknown model, and for an option that it does not have."""
    model = _outside(settings.model) if ":" in settings.model else _built_in(settings.model)
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


def _built_in(name: str) -> type[RankingModel]:
    if name not in NAMES:
        raise ConfigError(f"ranker.model: there is no model {name!r}{did_you_mean(name, NAMES)}")
    module = importlib.import_module(f"{__name__}.{name}")
    (model,) = (
        found
        for found in vars(module).values()
        if isinstance(found, type) and found.__module__ == module.__name__ and issubclass(found, RankingModel)
    )
    return model


def _outside(name: str) -> type[RankingModel]:
    match = OUTSIDE.fullmatch(name)
    if match is None:
        raise ConfigError(f"ranker.model: {name!r} is not of the form module:Class, such as my_models.two_tower:TwoTower")
    module_name, class_name = match.groups()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # at the end, so that nothing in this folder hides an installed module
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"ranker.model: there is no module {module_name!r} on this machine; install it, or add its folder to PYTHONPATH, "
                "also for Ray's workers and the service"
            ) from error
        raise ConfigError(
            f"ranker.model: module {module_name!r} can't be imported ({error}); correct it, or install what it needs"
        ) from error
    model = getattr(module, class_name, None)
    if not (isinstance(model, type) and issubclass(model, RankingModel)):
        raise ConfigError(f"ranker.model: module {module_name!r} has no subclass of RankingModel called {class_name!r}")
    return model
