"""Casts a column as a whole if possible, and otherwise cell by cell, with a reason for each cell that can't be cast."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.tables import BYTES, TEXT

Faults = dict[int, str]  # by position
Converted = tuple[pa.Array, Faults]


def cast_cells(array: pa.Array, kind: pa.DataType, parse: Callable[[Any], Any], reason: str) -> Converted:
    """The array cast as a whole or, when some cell does not fit, parsed cell by cell. A cell that can't be parsed is a fault."""
    try:
        return array.cast(kind), {}
    except pa.ArrowInvalid:  # some cell does not fit
        return parsed(array, kind, parse, reason)
    except pa.ArrowNotImplementedError:
        return reject_all(array, kind, f"{reason} but a {array.type}")


def parsed(array: pa.Array, kind: pa.DataType, parse: Callable[[Any], Any], reason: str) -> Converted:
    """The array parsed cell by cell, where it is text each distinct cell once."""
    if array.type in (TEXT, BYTES):
        encoded = array.dictionary_encode()
        distinct, wrong = _parsed_cells(encoded.dictionary, kind, parse, reason)
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(np.isin(codes, [*wrong])) if wrong else ()
        return distinct.take(encoded.indices), {int(row): wrong[codes[row]] for row in rows}
    return _parsed_cells(array, kind, parse, reason)


def _parsed_cells(array: pa.Array, kind: pa.DataType, parse: Callable[[Any], Any], reason: str) -> Converted:
    values, faults = [], {}
    for row, cell in enumerate(array.to_pylist()):
        try:
            values.append(None if cell is None else parse(cell))
        except ValueError:
            values.append(None)
            faults[row] = f"{str(cell)[:80]!r} {reason}"
    return pa.array(values, kind), faults


def reject_all(array: pa.Array, kind: pa.DataType, reason: str) -> Converted:
    """Nulls, with the same reason for every cell that has a value."""
    return pa.nulls(len(array), kind), {int(row): reason for row in np.flatnonzero(array.is_valid())}
