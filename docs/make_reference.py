"""Writes docs/reference.md: a table of all keys for each section of the config, from the classes of `rayrec.config`, their types,
defaults and comments. `make reference` runs it after a change of the config, and a test fails until it was run.
"""

import inspect
import io
import json
import re
import textwrap
import tokenize
from pathlib import Path
from typing import Any, get_args, get_origin

from rayrec import config

PAGE = Path(__file__).with_name("reference.md")
HEAD = """# All configuration keys

Each section of the config has a table. In overrides, a key is written as `section.key`.
[Configuration](configuration.md) explains how they work together. This page is made from
[`rayrec/config/`](../rayrec/config) by `make reference`.

## Outside all sections"""


def reference() -> str:
    """The page: a heading and a table for each section of the config."""
    parts = [HEAD, _table("", config.Config, "The settings at the top of the file.")]
    for name, field in config.Config.model_fields.items():
        found = _sections(field.annotation)
        for section in found:
            kind = get_args(section.model_fields["kind"].annotation)[0] if len(found) > 1 else None
            heading = f"## `{name}`, `kind: {kind}`" if kind else f"## `{name}`"
            parts.append(f"{heading}\n\n{_table(name, section)}")
    return "\n\n".join(parts) + "\n"


def _table(prefix: str, section: type[config.Section], intro: str | None = None) -> str:
    comments = _comments(section)
    schema = section.model_json_schema()
    says = intro or inspect.cleandoc(section.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    lines = [textwrap.fill(says, 120, break_long_words=False, break_on_hyphens=False), ""]
    lines += ["| key | values | default | meaning |", "|---|---|---|---|"]
    nested = []
    for name, field in section.model_fields.items():
        inner = None if get_origin(field.annotation) is dict else next(iter(_sections(field.annotation)), None)
        if inner is not None and prefix:
            nested.append((f"{prefix}.{name}", inner))
        if inner is not None and not prefix:
            continue  # a section with a heading of its own
        key = field.alias or name
        values = "a section, see below" if inner is not None else _values(schema["properties"][key], schema.get("$defs", {}))
        default = (
            "" if inner is not None else "needed" if field.is_required() else _code(field.get_default(call_default_factory=True))
        )
        lines.append(f"| `{key}` | {values} | {default} | {comments.get(name, '')} |")
    text = "\n".join(lines)
    for name, inner in nested:
        text += f"\n\n### `{name}`\n\n" + _table(name, inner)
    return text


def _sections(annotation: Any) -> list[type[config.Section]]:
    """The section classes inside an annotation such as `Section | None`."""
    if isinstance(annotation, type) and issubclass(annotation, config.Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


def _values(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        return _values(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(_values(choice, definitions) for choice in schema.get("anyOf") or schema["oneOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(_code(value) for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_values(schema.get('items', {}), definitions)}"
    if kind == "object":
        return "mapping"
    words = {"integer": "whole number", "string": "text", "boolean": "`true`, `false`", "null": "`null`"}.get(kind, kind)
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "multipleOf": "a multiple of"}
    found = {sign: schema[key] for key, sign in bounds.items() if key in schema}
    limits = [f"{sign} {value:g}" if isinstance(value, float) else f"{sign} {value:,}" for sign, value in found.items()]
    return " ".join([words, *([", ".join(limits)] if limits else [])])


def _code(value: Any) -> str:
    """A value as it is written in YAML, in a cell of a table."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"`{text}`".replace("|", "\\|")


def _comments(section: type[config.Section]) -> dict[str, str]:
    """What the source says of each field: the comment lines above it and the one behind it. A field may be that of a base class."""
    bases = [base for base in reversed(section.__mro__) if issubclass(base, config.Section)]
    source = "\n".join(inspect.cleandoc("\n" + inspect.getsource(base)) for base in bases)
    comments: dict[str, list[str]] = {}
    above: list[str] = []
    for line in source.splitlines():
        found = [token.string for token in _tokens(line) if token.type == tokenize.COMMENT]
        text = found[-1].removeprefix("#").strip() if found else ""
        field = re.match(r"\s*(\w+): ", line)
        if field and field[1] in section.model_fields:
            comments[field[1]] = [*above, *([text] if text else [])] or comments.get(field[1], [])
            above = []
        else:
            above = [*above, text] if text and line.strip().startswith("#") else []
    return {name: " ".join(parts).replace("|", "\\|") for name, parts in comments.items()}


def _tokens(line: str) -> list[tokenize.TokenInfo]:
    """The tokens of one line, as far as they can be read: a line may open a bracket or a text that it does not close."""
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(line).readline):
            found.append(token)
    except (tokenize.TokenError, IndentationError):
        pass
    return found


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
