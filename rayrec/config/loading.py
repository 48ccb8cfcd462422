"""Reads a config from YAML and applies `section.key=value` overrides. An error names an unknown key and the nearest known one."""

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from rayrec.config.base import ConfigError, Section, dump
from rayrec.config.datasets import DATASETS
from rayrec.config.tree import Config
from rayrec.errors import did_you_mean

# In rayrec 0.1 the names of these keys, by section, began with other words.
OLD_WORDS = {"max": "most", "min": "least"}
REWORDED = {
    "": ("max_rejects",),
    "features.text": ("max_tokens",),
    "topics": ("max_topics", "min_tag_videos", "max_tags"),
    "training": ("max_workers",),
    "tuning": ("min_epochs",),
    "recall": ("min_exposures", "min_ctr"),
    "selection": ("max_per_topic", "max_per_author"),
    "serving": ("max_ranker_replicas", "max_k"),
}
# Section -> old key -> new key. Keys that are renamed from now on are added here.
RENAMED = {section: {OLD_WORDS[new[:3]] + new[3:]: new for new in keys} for section, keys in REWORDED.items()}


def load(path: str | Path | None, overrides: list[str] | None = None) -> Config:
    """The config of a YAML file (all defaults if None) with `section.key=value` overrides; values are read as YAML.

    Raises `ConfigError` for a missing file, broken YAML, an unknown key or a value of the wrong kind.
    """
    tree = {} if path is None else _read(path)
    for override in overrides or []:
        _apply(tree, override)
    if isinstance(tree.get("dataset"), dict):
        tree["dataset"].setdefault("kind", "world")
    return _checked(tree, str(path or "config"))


def with_values(config: Config, values: dict[str, Any], source: str = "config") -> Config:
    """The config with other values under keys such as `ranker.model`.

    Raises `ConfigError` as `load` does. Its message begins with `source`, which says where the values come from.
    """
    tree = dump(config)
    for key, value in values.items():
        _put(tree, key, value, source)
    return _checked(tree, source)


def _read(path: str | Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the config file can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the config file is not text in UTF-8 ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if tree is not None and not isinstance(tree, dict):
        raise ConfigError(f"{path}: a config is a mapping of sections, not {type(tree).__name__}")
    return tree or {}


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} should read section.key=value")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"override {override!r}: the value is not valid YAML ({problem}); put text in quotes") from error
    _put(tree, key, parsed, f"override {override!r}")


def _put(tree: dict[str, Any], key: str, value: Any, source: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise ConfigError(f"{source}: {parent!r} holds a value, not a section")
    tree[last] = value


def _checked(tree: dict[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [_sentence(dict(problem)) for problem in error.errors()]
    raise ConfigError("\n".join(f"{source}: {line}" for line in lines))


def _sentence(problem: dict[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(part for part in path if part not in DATASETS)
    if problem["type"] == "extra_forbidden":
        if new := RENAMED.get(".".join(path[:-1]), {}).get(path[-1]):
            return f"{key!r} is now called {'.'.join([*path[:-1], new])!r}; rename it"
        return f"unknown key {key!r}{did_you_mean(path[-1], list(_section_at(path[:-1]).model_fields))}"
    if problem["type"] == "missing":
        return f"{key!r} is missing; add it"
    given = str(problem["input"])[:80]
    if problem["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return f"{key!r} is a section, so it holds keys with values, not {given!r}"
    return f"{key}: {problem['msg'].removeprefix('Value error, ')} (got {given!r})"


def _section_at(path: list[str]) -> type[Section]:
    """The class of the section at a pydantic error location, where the kind of a dataset and the key of a mapping are steps too."""
    section: type[Section] = Config
    for part in path:
        if part in DATASETS:
            section = DATASETS[part]
        elif part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    """The first section in an annotation such as `Section | None` or `dict[str, list[Any] | Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for kind in get_args(annotation) if (found := _section_in(kind))), None)
