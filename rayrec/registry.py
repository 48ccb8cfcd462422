"""Finds an implementation by its file name: the config names a module of a package, and the module holds one class."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from rayrec.config import ConfigError, Section
from rayrec.config.wording import wording
from rayrec.errors import did_you_mean


class NoOptions(Section):
    """The options of an implementation that has none."""


def find_class(package: str, names: Sequence[str], name: str, base: type, key: str, kind: str) -> type[Any]:
    """The one subclass of `base` that the module `name` of a package defines; `names` are the modules that there are.

    Raises `ConfigError`, with the nearest name, for another name. `key` is where the config has it, `kind` what it names.
    """
    if name not in names:
        raise ConfigError(f"{key}: there is no {kind} {name!r}{did_you_mean(name, names)}")
    module = importlib.import_module(f"{package}.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__ and issubclass(value, base)
    )
    return found


def read_options(options: type[Section], values: Mapping[str, Any], key: str, owner: str) -> Section:
    """The options of an implementation. Raises `ConfigError` for an unknown option and for a value of the wrong kind."""
    for name in values:
        if name not in options.model_fields:
            raise ConfigError(f"{key}: {owner} has no option {name!r}{did_you_mean(name, options.model_fields)}")
    try:
        return options.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{key}.{'.'.join(map(str, first['loc']))}: {wording(first)} (got {first['input']!r})") from error
