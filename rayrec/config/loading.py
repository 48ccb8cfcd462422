"""YAML in, `section.key=value` overrides on top; unknown keys are refused with the nearest known name."""

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from rayrec.config.base import ConfigError, Section, dump
from rayrec.config.datasets import DATASETS
from rayrec.config.tree import Config
from rayrec.errors import did_you_mean

# Keys of rayrec 0.1 and their present names, by section.
RENAMED = {
    "": {"most_rejects": "max_rejects"},
    "features.text": {"most_tokens": "max_tokens"},
    "topics": {"most_topics": "max_topics", "least_tag_videos": "min_tag_videos", "most_tags": "max_tags"},
    "training": {"most_workers": "max_workers"},
    "tuning": {"least_epochs": "min_epochs"},
    "recall": {"least_exposures": "min_exposures", "least_ctr": "min_ctr"},
    "selection": {"most_per_topic": "max_per_topic", "most_per_author": "max_per_author"},
    "serving": {"most_ranker_replicas": "max_ranker_replicas", "most_k": "max_k"},
}


def load(path: str | Path | None, overrides: list[str] | None = None) -> Config:
    """The config of a YAML file (all defaults when None) with `section.key=value` overrides; values are read as YAML.

    Raises `ConfigError` for a missing file, broken YAML, an unknown key or a value of the wrong kind.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = yaml.safe_load(Path(path).read_text()) or {}
        except OSError as error:
            raise ConfigError(f"{path}: the config file can't be read ({error.strerror})") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not valid YAML: {error}") from error
        if not isinstance(tree, dict):
            raise ConfigError(f"{path}: a config is a mapping of sections, not {type(tree).__name__}")
    for override in overrides or []:
        _apply(tree, override)
    if isinstance(tree.get("dataset"), dict):
        tree["dataset"].setdefault("kind", "world")
    return _checked(tree, str(path or "config"))


def with_values(config: Config, values: dict[str, Any], source: str = "config") -> Config:
    """The config with other values under keys such as `ranker.model`. Raises `ConfigError` as `load` does, from `source` on."""
    tree = dump(config)
    for key, value in values.items():
        _put(tree, key, value, source)
    return _checked(tree, source)


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} should read section.key=value")
    _put(tree, key, yaml.safe_load(value), f"override {override!r}")


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
    return f"{key}: {problem['msg']} (got {str(problem['input'])[:80]!r})"


def _section_at(path: list[str]) -> type[Section]:
    """The class of the section at a pydantic error location, in which a dataset's kind or a mapping's key is one more step."""
    section: type[Section] = Config
    for part in path:
        if part in DATASETS:
            section = DATASETS[part]
        elif part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    """The first section that an annotation such as `Section | None` or `dict[str, list[Any] | Section]` names."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for kind in get_args(annotation) if (found := _section_in(kind))), None)
