"""Converts columns of any type to the types of our tables, with a reason for each cell that can't be converted.

The function for a type takes an Arrow array of any type and returns the converted array and `{position: reason}`. A column is cast
as a whole if possible; only a column with unusual cells is read cell by cell.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec import tables
from rayrec.datasets.screening import SourceTable
from rayrec.tables import TEXT, TIME

Faults = dict[int, str]
Converted = tuple[pa.Array, Faults]

YEAR_10000 = 253_402_300_800_000  # in ms
MS_PER_UNIT = {"s": 1000.0, "ms": 1.0, "us": 0.001}
TRUE, FALSE = frozenset({"true", "t", "yes", "1"}), frozenset({"false", "f", "no", "0"})


@dataclass(frozen=True)
class Conventions:
    """What the types of a file's columns don't say: how lists, times and clicks are written."""

    list_separator: str = "|"
    time_unit: Literal["s", "ms", "us"] = "ms"
    click_at_least: float | None = None  # the lowest number that counts as a click


def convert_rows(name: str, raw: SourceTable, columns: dict[str, str], conventions: Conventions) -> SourceTable:
    """Rows of a file as rows of table `name`. `columns` maps our names to the file's; a name not in our schema is a side column.

    A row with a cell that can't be converted goes to the rejects.
    """
    schema = tables.spec_of(name).schema
    converted: dict[str, pa.Array] = {}
    reasons: dict[int, str] = {}
    for ours, theirs in columns.items():
        if ours not in schema.names:
            converted[ours] = to_side_column(raw.table[theirs])
            continue
        converted[ours], faults = convert(raw.table[theirs], schema.field(ours).type, conventions)
        label = ours if ours == theirs else f"{ours} (column {theirs!r})"
        reasons = {row: f"{label}: {reason}" for row, reason in faults.items()} | reasons
    rows = SourceTable(raw.source, pa.table(converted), raw.rows, raw.rejected)
    rows.reject(reasons, id_column=schema.names[0])
    return rows


def convert(column: pa.ChunkedArray, kind: pa.DataType, conventions: Conventions) -> Converted:
    """A column converted to the type `kind` of one of our schemas."""
    array, faults = _unwrapped(column)
    if kind == TIME:
        converted, wrong = to_time(array, conventions.time_unit)
    elif pa.types.is_boolean(kind):
        converted, wrong = to_clicked(array, conventions.click_at_least)
    elif pa.types.is_list(kind):
        converted, wrong = to_words(array, conventions.list_separator)
    elif kind == TEXT:
        converted, wrong = to_text(array)
    else:
        converted, wrong = to_number(array)
        converted = converted.cast(kind)
    return converted, wrong | faults


def to_text(array: pa.Array) -> Converted:
    """Ids and titles. Whole numbers lose the `.0` that pandas adds to a column with gaps."""
    if pa.types.is_floating(array.type):
        with suppress(pa.ArrowInvalid):  # there are fractions, which are kept
            array = array.cast(pa.int64())
    if pa.types.is_nested(array.type):
        return _reject_all(array, TEXT, f"is a {array.type}, not text")
    return array.cast(TEXT), {}


def to_words(array: pa.Array, separator: str) -> Converted:
    """Lists of words, or text that `separator` splits. Words are stripped of blanks, and each is kept once."""
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        array, faults = to_text(array)
        if faults:
            return _reject_all(array, pa.list_(TEXT), next(iter(faults.values())))
        array = pc.split_pattern(array, separator)
    lists = [None if words is None else _clean(words) for words in array.to_pylist()]
    return pa.array(lists, pa.list_(TEXT)), {}


def to_number(array: pa.Array) -> Converted:
    """Numbers, as float64."""
    return _cast(array, pa.float64(), float, "is not a number")


def to_time(array: pa.Array, unit: Literal["s", "ms", "us"]) -> Converted:
    """UTC milliseconds from numbers of `unit`, dates, timestamps or ISO 8601 text. Times without a zone are taken as UTC."""
    if pa.types.is_date(array.type) or pa.types.is_timestamp(array.type):
        zone = "UTC" if getattr(array.type, "tz", None) else None
        return array.cast(pa.timestamp("ms", zone), safe=False).cast(TIME), {}
    hint = f"is not a time: neither a number (of {unit}) nor ISO 8601, such as 2024-01-31T12:00:00Z"
    times, faults = _cast(array, pa.float64(), lambda cell: _time_in(cell, unit), hint)
    times = times.to_numpy(zero_copy_only=False)  # doubles: exact to the ms far beyond the calendar
    missing = array.is_null().to_numpy(zero_copy_only=False)
    late = np.abs(times) >= YEAR_10000 / MS_PER_UNIT[unit]
    no_date = f"is outside the calendar when read as {unit}; check `dataset.time_unit`"
    faults |= {int(row): no_date for row in np.flatnonzero(late)}
    faults = {int(row): hint for row in np.flatnonzero(~missing & np.isnan(times))} | faults
    fine = ~missing
    fine[list(faults)] = False
    whole = np.where(fine, np.round(np.where(fine, times, 0) * MS_PER_UNIT[unit]), 0).astype(np.int64)
    return pa.array(whole, TIME, mask=~fine), faults


def to_clicked(array: pa.Array, at_least: float | None) -> Converted:
    """Booleans from true and false, 0 and 1, or, with `at_least`, from any number: that number and higher ones are clicks."""
    numbers, faults = _cast(array, pa.float64(), _truth, "is neither true nor false nor a number")
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


def to_side_column(column: pa.ChunkedArray) -> pa.Array:
    """A column of unknown meaning. Text becomes integers or floats if every cell can be converted; otherwise it stays text."""
    array, _ = _unwrapped(column)
    if array.type != TEXT:
        return array
    for kind in (pa.int64(), pa.float64()):
        try:
            return array.cast(kind)
        except pa.ArrowInvalid:
            continue  # the next wider kind
    return array


def _unwrapped(column: pa.ChunkedArray) -> Converted:
    """One array without dictionary, large or view types. Bytes become text; a cell that isn't UTF-8 is a fault."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _cast(array, TEXT, lambda cell: cell.decode(), "is not UTF-8 text")
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(TEXT), {}
    return array, {}


def _cast(array: pa.Array, kind: pa.DataType, parse: Callable[[Any], Any], reason: str) -> Converted:
    """The array cast as a whole or, when some cell does not fit, parsed cell by cell. A cell that can't be parsed is a fault."""
    try:
        return array.cast(kind), {}
    except pa.ArrowInvalid:
        pass  # some cell does not fit: they are parsed below
    except pa.ArrowNotImplementedError:
        return _reject_all(array, kind, f"{reason} but a {array.type}")
    values, faults = [], {}
    for row, cell in enumerate(array.to_pylist()):
        try:
            values.append(None if cell is None else parse(cell))
        except ValueError:
            values.append(None)
            faults[row] = f"{str(cell)[:80]!r} {reason}"
    return pa.array(values, kind), faults


def _reject_all(array: pa.Array, kind: pa.DataType, reason: str) -> Converted:
    """Nulls, with the same reason for every cell that has a value."""
    return pa.nulls(len(array), kind), {int(row): reason for row in np.flatnonzero(array.is_valid())}


def _time_in(cell: str, unit: str) -> float:
    """A cell as a number of `unit`s. Raises `ValueError` when it is neither a number nor a date."""
    try:
        return float(cell)
    except ValueError:
        moment = datetime.fromisoformat(cell.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000 / MS_PER_UNIT[unit]


def _truth(cell: str) -> float:
    word = cell.strip().lower()
    return 1.0 if word in TRUE else 0.0 if word in FALSE else float(word)


def _clean(words: list[Any]) -> list[str]:
    return list(dict.fromkeys(str(word).strip() for word in words if word is not None and str(word).strip()))
