"""Converts columns of any type to the types of our tables, with a reason for each cell that can't be converted.

The function for a type takes an Arrow array of any type and returns the converted array and `{position: reason}`. A column is cast
as a whole if possible; only a column with unusual cells is read cell by cell.
"""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec import tables
from rayrec.datasets.cells import Converted, Faults, cast_cells, reject_all
from rayrec.datasets.screening import SourceTable
from rayrec.datasets.times import TimeUnit, to_time
from rayrec.tables import BYTES, TEXT, TIME
from rayrec.values import text_of, texts_of

VERBATIM = ("title", "uri", "cover_uri")  # columns that are no values
MISSING = frozenset({"nan", "none", "null", "n/a", "<na>"})  # what writers of files give in place of a list
PYTHON_STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
PYTHON_STRINGS = re.compile(rf"\[\s*((?:(?:{PYTHON_STRING})[,\s]*)*)\]", re.DOTALL)
TRUE, FALSE = frozenset({"true", "t", "yes", "1"}), frozenset({"false", "f", "no", "0"})
LEFT_OUT = "{}: column {!r} is left out, because no ranker can use a {}; make it text, a number or a list of either"


@dataclass(frozen=True)
class Conventions:
    """What the types of a file's columns don't say: how lists, times and clicks are written."""

    list_separator: str = "|"
    time_unit: TimeUnit = "ms"
    click_at_least: float | None = None  # the lowest number that counts as a click


def convert_rows(name: str, raw: SourceTable, columns: dict[str, str], conventions: Conventions) -> SourceTable:
    """Rows of a file as rows of table `name`. `columns` maps our names to the file's; a name not in our schema is a side column.

    A row with a cell that can't be converted goes to the rejects.
    """
    remarks = list(raw.remarks)
    schema = tables.spec_of(name).schema
    converted: dict[str, pa.Array] = {}
    reasons: dict[int, str] = {}
    for ours, theirs in columns.items():
        if ours not in schema.names:
            if (side := to_side_column(raw.table[theirs])) is not None:
                converted[ours] = side
            else:
                remarks.append(LEFT_OUT.format(raw.source, theirs, raw.table[theirs].type))
            continue
        converted[ours], faults = convert(raw.table[theirs], schema.field(ours).type, conventions, ours in VERBATIM)
        label = ours if ours == theirs else f"{ours} (column {theirs!r})"
        reasons = {row: f"{label}: {reason}" for row, reason in faults.items()} | reasons
    rows = SourceTable(raw.source, pa.table(converted), raw.rows, raw.rejected, remarks)
    rows.reject(reasons, id_column=schema.names[0])
    return rows


def convert(column: pa.ChunkedArray, kind: pa.DataType, conventions: Conventions, verbatim: bool = False) -> Converted:
    """A column converted to the type `kind` of one of our schemas. Text that is `verbatim` is a title or a uri, not a value."""
    array, faults = _plain(column)
    if kind == TIME:
        converted, wrong = to_time(array, conventions.time_unit)
    elif pa.types.is_boolean(kind):
        converted, wrong = to_clicked(array, conventions.click_at_least)
    elif pa.types.is_list(kind):
        converted, wrong = to_words(array, conventions.list_separator)
    elif kind == TEXT:
        converted, wrong = (array, {}) if verbatim and array.type == TEXT else to_text(array)
    else:
        converted, wrong = to_number(array)
        converted = converted.cast(kind)
    return converted, wrong | faults


def to_text(array: pa.Array) -> Converted:
    """Ids, classes and other values, as `values.texts_of` writes them."""
    if _has_no_text(array.type):
        return reject_all(array, TEXT, f"is a {array.type}, not text")
    return texts_of(array), {}


def to_words(array: pa.Array, separator: str) -> Converted:
    """Lists of words: any list, also a nested one, the keys of a map, a list in JSON or Python, or text that `separator` splits.

    Words are stripped of blanks, and each is kept once. A text such as `null` or `nan` is no word but a missing value.
    """
    kind = array.type
    inner = kind
    while _is_list(inner):
        inner = inner.value_type
    if pa.types.is_map(kind):
        inner = kind.key_type
    if _has_no_text(inner):
        return reject_all(array, pa.list_(TEXT), f"is a {kind}, not a list of words")
    cells: list[Any] = (array if kind == TEXT or pa.types.is_nested(kind) else texts_of(array)).to_pylist()
    lists: list[list[str] | None] = []
    faults: Faults = {}
    for row, cell in enumerate(cells):
        try:
            if pa.types.is_map(kind) and cell is not None:
                cell = [key for key, _ in cell]
            lists.append(_words(cell, separator))
        except ValueError:
            lists.append(None)
            faults[row] = f"{str(cell)[:80]!r} is not a list of words"
    return pa.array(lists, pa.list_(TEXT)), faults


def to_number(array: pa.Array) -> Converted:
    """Numbers, as float64; durations as seconds."""
    if pa.types.is_duration(array.type):
        array = _seconds(array)
    return cast_cells(array, pa.float64(), float, "is not a number")


def to_clicked(array: pa.Array, at_least: float | None) -> Converted:
    """Booleans from true and false, 0 and 1, or, with `at_least`, from any number: that number and higher ones are clicks."""
    numbers, faults = cast_cells(array, pa.float64(), _truth, "is neither true nor false nor a number")
    values = numbers.to_numpy(zero_copy_only=False)
    missing = numbers.is_null().to_numpy(zero_copy_only=False)
    if at_least is None:
        strange = ~missing & ~np.isin(values, [0, 1])
        reason = "is neither 0 nor 1; set `dataset.click_at_least` to the lowest number that counts as a click"
    else:
        strange, reason = ~missing & np.isnan(values), "is not a number"
    faults |= {int(row): reason for row in np.flatnonzero(strange)}
    clicked = values >= (1 if at_least is None else at_least)
    return pa.array(clicked, pa.bool_(), mask=missing | strange), faults


def to_side_column(column: pa.ChunkedArray) -> pa.Array | None:
    """A column of unknown meaning as what a ranker can use; None for structs, maps and nested lists, which none can.

    That is: truth values, numbers, canonical text, lists of floats, which are vectors, and lists of text. A column without any
    value has the type null. Durations become seconds, dates and times text. Decimals become text, of which `SourceTable.screen`
    makes numbers.
    """
    array, _ = _plain(column)
    kind = array.type
    if array.null_count == len(array):
        return pa.nulls(len(array))
    if _is_list(kind):
        values, _ = _plain(pa.chunked_array([pc.list_flatten(array)]))
        if not pa.types.is_floating(values.type):
            if _has_no_text(values.type):
                return None
            values = texts_of(values)
        return relisted(array, values)
    if _has_no_text(kind):
        return None
    if pa.types.is_duration(kind):
        return _seconds(array)
    if kind == pa.float16():
        return array.cast(pa.float32())
    return array if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) else texts_of(array)


def _plain(column: pa.ChunkedArray) -> Converted:
    """One array whose text is TEXT and whose lists are large; no dictionaries, views or extensions. Bytes become text.

    A cell of bytes that is not UTF-8 is a fault.
    """
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        if kind == pa.uuid():
            return pa.array([None if cell is None else str(cell) for cell in column.to_pylist()], TEXT), {}
        return _plain(column.cast(kind.storage_type))
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type))
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        column = column.cast(TEXT)
    elif _is_bytes(kind):
        return cast_cells(_one(column.cast(BYTES)), TEXT, lambda cell: cell.decode(), "is not UTF-8 text")
    elif pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        # Arrow's cast (26.0) loses values.
        lists = [relisted(chunk, pc.list_flatten(chunk)) for chunk in column.chunks]
        column = pa.chunked_array(lists, pa.large_list(kind.value_type))
    elif _is_list(kind):
        column = column.cast(pa.large_list(kind.value_type))
    return _one(column), {}


def relisted(lists: pa.Array, values: pa.Array) -> pa.Array:
    """The lists with other values in the place of their own, which are flattened."""
    ends = np.cumsum(pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False))
    return pa.LargeListArray.from_arrays(pa.array(np.append(0, ends), pa.int64()), values, mask=lists.is_null())


def _seconds(durations: pa.Array) -> pa.Array:
    per_second = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[durations.type.unit]
    return pc.divide(durations.cast(pa.int64()).cast(pa.float64(), safe=False), per_second)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def _is_list(kind: pa.DataType) -> bool:
    views = (pa.types.is_list_view, pa.types.is_large_list_view)
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, *views))


def _has_no_text(kind: pa.DataType) -> bool:
    return pa.types.is_nested(kind) or pa.types.is_interval(kind)


def _truth(cell: str) -> float:
    word = cell.strip().lower()
    return 1.0 if word in TRUE else 0.0 if word in FALSE else float(word)


def _words(cell: Any, separator: str) -> list[str] | None:
    """The words of a cell. Raises `ValueError` for one that holds structs, or bytes that are not UTF-8."""
    if cell is None:
        return None
    if isinstance(cell, str):
        text = cell.strip()
        if text.lower() in MISSING:
            return None
        listed = _listed(text)
        cell = cell.split(separator) if listed is None else listed
    words = (word.strip() for word in map(_word, _leaves(cell)))
    return list(dict.fromkeys(word for word in words if word))


def _word(cell: Any) -> str:
    if isinstance(cell, bytes):
        return cell.decode()
    return cell if isinstance(cell, str) else text_of(cell) or ""


def _listed(text: str) -> list[Any] | None:
    """What a list in JSON or of Python's (or NumPy's) strings holds; None for other text. Raises `ValueError` for a JSON object."""
    if text[:1] not in ("[", "{") or text[-1:] not in ("]", "}"):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        quoted = PYTHON_STRINGS.fullmatch(text)
        return [ast.literal_eval(each) for each in re.findall(PYTHON_STRING, quoted[1])] if quoted else None
    if isinstance(found, list):
        return found
    raise ValueError("a JSON object")


def _leaves(cell: Any) -> Iterator[Any]:
    if isinstance(cell, dict):
        raise ValueError("a struct")
    if isinstance(cell, list):
        for each in cell:
            yield from _leaves(each)
    else:
        yield cell
