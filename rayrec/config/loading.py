"""Reads a config from YAML and applies `section.key=value` overrides. An error names an unknown key and the nearest known one."""

import re
import sys
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from rayrec.config.base import ConfigError, Section, dump
from rayrec.config.datasets import DATASETS
from rayrec.config.tree import Config
from rayrec.config.wording import wording
from rayrec.errors import did_you_mean

# How keys of rayrec 0.1 that set a bound began, and how they begin now.
OLD_PREFIXES = {"most": "max", "least": "min"}
NULLS = ("", "~", "null", "Null", "NULL")  # what YAML reads as nothing
NOT_TEXT = ("[", "{", "!", "'", '"')  # how the value of an override begins that is meant as YAML


MISSING_SPACE = re.compile(r"\w+:\S+")  # such as `topics:1`


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would keep only the last, and a key such as the one in `{topics:1}`.

    All its errors are `YAMLError`s.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Before mappings are merged with `<<`, which repeats the keys that one takes from another.
        node = super().compose_mapping_node(anchor)
        marks: dict[Any, yaml.Mark] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (before := marks.setdefault(key.value, key.start_mark)) is not key.start_mark:
                problem = f"the key {key.value!r} is there twice, first in line {before.line + 1}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            if node.flow_style and value.value == "" and value.style is None and MISSING_SPACE.fullmatch(key.value):
                problem = f"{key.value!r} has no space after its colon"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # from a number of more than 4,300 digits, or `!!int x`
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error


# No key takes a date, but a folder may be named 2024-01-31: it is text.
StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(path: str | Path | None, overrides: list[str] | None = None) -> Config:
    """The config of a YAML file (all defaults if None) with `section.key=value` overrides.

    The value of an override is read as YAML, but text is taken as it is. Raises `ConfigError` for a missing file, broken YAML, a
    key that is unknown or there twice, or a value of the wrong kind.
    """
    tree = {} if path is None else _read(path)
    overridden = {}
    for override in overrides or []:
        overridden[_apply(tree, override)] = override
    return _checked(tree, str(path or "config"), overridden)


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
        tree = _parsed(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the config file can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the config file is not text in UTF-8 ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if tree is not None and not isinstance(tree, dict):
        raise ConfigError(f"{path}: a config is a mapping of sections, not {type(tree).__name__}")
    return tree or {}


def _parsed(text: str) -> Any:
    """What a YAML text says. Raises `YAMLError`."""
    try:
        return yaml.load(text, StrictLoader)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error


def _apply(tree: dict[str, Any], override: str) -> str:
    """Puts the value of an override into the tree, and returns its key."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} should read section.key=value")
    if any("\udc80" <= letter <= "\udcff" for letter in override):  # how Python writes bytes that it can't decode
        raise ConfigError(f"override {override!r} is not text in {sys.getfilesystemencoding()}, the encoding of this system")
    _put(tree, key, _value(value, override), f"override {override}")
    return key


def _value(text: str, override: str) -> Any:
    """The value of an override. Text that YAML can't read, or only in part, is taken whole: `,`, `|`, `*.csv`, `a #1`."""
    try:
        value = _parsed(text)
    except yaml.YAMLError as error:
        if not text.startswith(NOT_TEXT):
            return text
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"override {override}: the value is not valid YAML ({problem}); put text in quotes") from error
    cut = isinstance(value, str) or (value is None and text.strip() not in NULLS)
    return text if cut and not text.startswith(NOT_TEXT) else value


def _put(tree: dict[str, Any], key: str, value: Any, source: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise ConfigError(f"{source}: {parent!r} holds a value, not a section")
    tree[last] = value


def _checked(tree: dict[str, Any], source: str, overridden: dict[str, str] | None = None) -> Config:
    """The config of a tree. `overridden` has the overrides, by their keys; an error names the one that it comes from."""
    if isinstance(tree.get("dataset"), dict):
        tree["dataset"].setdefault("kind", "world")
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problems = [(_key(tree, dict(problem)), dict(problem)) for problem in error.errors()]
    lines = [f"{_source(key, source, overridden or {})}: {_sentence(key, problem)}" for key, problem in problems]
    raise ConfigError("\n".join(lines))


def _source(key: str, source: str, overridden: dict[str, str]) -> str:
    """Where the value under a key comes from. A section as a whole may come from the file and from overrides."""
    for name, override in reversed(overridden.items()):
        if f"{key}.".startswith(f"{name}."):
            return f"override {override}"
    parts = [override for name, override in overridden.items() if name.startswith(f"{key}.")]
    return f"{source} with {' '.join(parts)}" if parts else source


def _key(tree: Any, problem: dict[str, Any]) -> str:
    """The key of a problem. Pydantic's path to it also names the members of unions: `files`, `span`, `list[str]`."""
    key = []
    for part in problem["loc"]:
        inner = dict(enumerate(tree)) if isinstance(tree, list) else tree if isinstance(tree, dict) else {}
        if (found := next((name for name in inner if str(name) == str(part)), None)) is not None:
            tree = inner[found]
            key.append(str(part))
    if problem["type"] == "missing":
        key.append(str(problem["loc"][-1]))
    if problem["type"] == "union_tag_invalid":
        key.append("kind")
    return ".".join(key)


def _sentence(key: str, problem: dict[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        known = _section_at(path[:-1]).model_fields
        prefix, _, rest = path[-1].partition("_")
        if (new := f"{OLD_PREFIXES.get(prefix)}_{rest}") in known:
            return f"{key!r} is now called {'.'.join([*path[:-1], new])!r}; rename it"
        return f"unknown key {key!r}{did_you_mean(path[-1], known, key.removesuffix(path[-1]))}"
    if problem["type"] == "missing":
        return f"{key!r} is missing; add it"
    if not path:  # sections that do not go together
        return wording(problem)
    given = str(problem["input"])[:80]
    if problem["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return f"{key!r} is a section, so it holds keys with values, not {given!r}"
    if problem["type"] == "union_tag_invalid":
        return f"{key}: there is no kind {problem['ctx']['tag']!r}{did_you_mean(problem['ctx']['tag'], DATASETS)}"
    return f"{key}: {wording(problem)} (got {repr(problem['input'])[:80]})"


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
