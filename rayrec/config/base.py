"""What every section of the config is made of."""

import json
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from rayrec.errors import RayrecError


class ConfigError(RayrecError):
    """The config can't be used; the message names the file, the key and what to change."""


def is_installed(module: str) -> bool:
    return find_spec(module) is not None


def need_package(module: str, extra: str, setting: str) -> None:
    """Raises `ConfigError` if a setting needs a package that is not installed. `extra` is ours that brings it."""
    if not is_installed(module):
        raise ConfigError(f"{setting} needs the package {module}, which is not installed: pip install 'rayrec[{extra}]'")


class Section(BaseModel):
    """A part of the config. It refuses unknown keys, and its values can't be changed after they have been read."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


def dump(config: BaseModel) -> dict[str, Any]:
    """The config as plain JSON values, all defaults included."""
    return json.loads(config.model_dump_json())


def settings_of(*sections: BaseModel) -> dict[str, Any]:
    """Config sections as plain values, under the names of their classes."""
    return {type(section).__name__: dump(section) for section in sections}
