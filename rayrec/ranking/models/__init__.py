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

from rayrec.config import ConfigError, Ranker, Section
from rayrec.data.fields import Tables
from rayrec.ranking.goals import SeveralGoals
from rayrec.ranking.model import RankingModel
from rayrec.registry import find_class, read_options

NAMES = [module.name for module in pkgutil.iter_modules(__path__)]
OUTSIDE = re.compile(r"([a-z_]\w*(?:\.[a-z_]\w*)*):([a-z_]\w*)", re.ASCII | re.IGNORECASE)  # module:Class, never a path


def check(settings: Ranker) -> type[RankingModel]:
    """The class that `settings.model` names. Raises `ConfigError` for an unknown model, and for an option that it does not have."""
    return _class_and_options(settings)[0]


def build(settings: Ranker, tables: Tables) -> RankingModel:
    """An untrained network of the class that `settings.model` names, the body of one with several goals if there are any."""
    model, options = _class_and_options(settings)
    if settings.goals:
        return SeveralGoals(settings, lambda: model(settings, options, tables))
    return model(settings, options, tables)


def _class_and_options(settings: Ranker) -> tuple[type[RankingModel], Section]:
    name = settings.model
    model = _outside(name) if ":" in name else find_class(__name__, NAMES, name, RankingModel, "ranker.model", "model")
    return model, read_options(model.Options, settings.options, "ranker.options", f"model {name!r}")


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
