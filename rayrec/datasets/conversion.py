"""A column as strangers store it -> the type that our tables want, with a reason for each cell that can't be had.

A function for one type takes an Arrow array of any type and returns the converted array and `{position: reason}`. Whole columns
are cast at once where that works; only a column with odd cells is read cell by cell.
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
    """How a file writes what a type alone can't tell."""

    list_separator: str = "|"
    time_unit: Literal["s", "ms", "us"] = "ms"
    click_at_least: float | None = None


def convert_rows(name: str, raw: SourceTable, columns: dict[str, str], conventions: Conventions) -> SourceTable:
    """A file's rows as rows of table `name`. `columns` maps ours to theirs; one that our schema lacks is a side column.

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
    incoming = SourceTable(raw.source, pa.table(converted), raw.rows, raw.rejected)
    incoming.reject(reasons, id_column=schema.names[0])
    return incoming


def convert(column: pa.ChunkedArray, kind: pa.DataType, conventions: Conventions) -> Converted:
    """A column as the type `kind` of one of our schemas."""
    array, faults = _plain(column)
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
    """Ids and titles. Whole numbers lose their `.0`, which pandas adds to a column with gaps."""
    if pa.types.is_floating(array.type):
        with suppress(pa.ArrowInvalid):  # there are fractions: they are kept as they are
            array = array.cast(pa.int64())
    if pa.types.is_nested(array.type):
        return _every_row(array, TEXT, f"is a {array.type}, not text")
    return array.cast(TEXT), {}


def to_words(array: pa.Array, separator: str) -> Converted:
    """Lists of words, or text that `separator` splits; without blanks around them, each word once."""
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        array, faults = to_text(array)
        if faults:
            return _every_row(array, pa.list_(TEXT), next(iter(faults.values())))
        array = pc.split_pattern(array, separator)
    lists = [None if words is None else _clean(words) for words in array.to_pylist()]
    return pa.array(lists, pa.list_(TEXT)), {}


def to_number(array: pa.Array) -> Converted:
    return _cast(array, pa.float64(), float, "is not a number")


def to_time(array: pa.Array, unit: Literal["s", "ms", "us"]) -> Converted:
    """UTC milliseconds from numbers in `unit`, from dates and timestamps, or from ISO 8601 text; without a zone it is UTC."""
    if pa.types.is_date(array.type) or pa.types.is_timestamp(array.type):
        zone = "UTC" if getattr(array.type, "tz", None) else None
        return array.cast(pa.timestamp("ms", zone), safe=False).cast(TIME), {}
    hint = f"is not a time: neither a number (of {unit}) nor ISO 8601, such as 2024-01-31T12:00:00Z"
    times, faults = _cast(array, pa.float64(), lambda cell: _time_in(cell, unit), hint)
    times = times.to_numpy(zero_copy_only=False)  # doubles: exact to the ms far beyond the calendar
    missing = array.is_null().to_numpy(zero_copy_only=False)
    late = np.abs(times) >= YEAR_10000 / MS_PER_UNIT[unit]
    no_date = f"lies outside the calendar when read as {unit}; is `dataset.time_unit` right?"
    faults |= {int(row): no_date for row in np.flatnonzero(late)}
    faults = {int(row): hint for row in np.flatnonzero(~missing & np.isnan(times))} | faults
    fine = ~missing
    fine[list(faults)] = False
    whole = np.where(fine, np.round(np.where(fine, times, 0) * MS_PER_UNIT[unit]), 0).astype(np.int64)
    return pa.array(whole, TIME, mask=~fine), faults


def to_clicked(array: pa.Array, at_least: float | None) -> Converted:
    """Truth values, 0 and 1, or (with `at_least`) any number, which counts as a click from there on."""
    numbers, faults = _cast(array, pa.float64(), _truth, "is neither true nor false nor a number")
    values = numbers.to_numpy(zero_copy_only=False)
    missing = numbers.is_null().to_numpy(zero_copy_only=False)
    if at_least is None:
        strange = ~missing & ~np.isin(values, [0, 1])
        reason = "is neither 0 nor 1; set `dataset.click_at_least` when clicks are to be told from a number"
    else:
        strange, reason = ~missing & np.isnan(values), "is not a number"
    faults |= {int(row): reason for row in np.flatnonzero(strange)}
    clicked = values >= (1 if at_least is None else at_least)
    return pa.array(clicked, pa.bool_(), mask=missing | strange), faults


def to_side_column(column: pa.ChunkedArray) -> pa.Array:
    """A user's own column of unknown meaning: text becomes whole numbers or numbers when all of it can, else it stays text."""
    array, _ = _plain(column)
    if array.type != TEXT:
        return array
    for kind in (pa.int64(), pa.float64()):
        try:
            return array.cast(kind)
        except pa.ArrowInvalid:
            continue  # the next wider kind
    return array


def _plain(column: pa.ChunkedArray) -> Converted:
    """One array without dictionaries, large or view types; bytes become text, and those that aren't UTF-8 a fault."""
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
    """The whole array cast at once or, when some cell does not fit, each cell parsed: what raises ValueError is a fault."""
    try:
        return array.cast(kind), {}
    except pa.ArrowInvalid:
        pass  # some cell needs a look of its own
    except pa.ArrowNotImplementedError:
        return _every_row(array, kind, f"{reason} but a {array.type}")
    values, faults = [], {}
    for row, cell in enumerate(array.to_pylist()):
        try:
            values.append(None if cell is None else parse(cell))
        except ValueError:
            values.append(None)
            faults[row] = f"{str(cell)[:80]!r} {reason}"
    return pa.array(values, kind), faults


def _every_row(array: pa.Array, kind: pa.DataType, reason: str) -> Converted:
    return pa.nulls(len(array), kind), {int(row): reason for row in np.flatnonzero(array.is_valid())}


def _time_in(cell: str, unit: str) -> float:
    """A time cell as a number of `unit`s. Raises ValueError when it is neither number nor date."""
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
