"""The types of the columns that users add, found from what each block of a table says about its own.

The rule is the same however many files and blocks a table has. Text whose values are all numbers becomes numbers. A column whose
types differ becomes canonical text first. Lists stay lists: of numbers if all of them are, otherwise of text. A column that is a
list here and something else there is left out.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.datasets.conversion import relisted
from rayrec.tables import TEXT
from rayrec.values import texts_of

_NUMBERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
_FLOATS = [pa.float32(), pa.float64()]
_LISTS = [pa.large_list(kind) for kind in (TEXT, pa.float16(), *_FLOATS)]
KINDS = {str(kind): kind for kind in (pa.bool_(), *_NUMBERS, *_FLOATS, TEXT, *_LISTS)}  # what `to_side_column` makes
FIRST = 1000  # texts
NAMED_BY_DIGITS = 10**15  # a number of 16 digits or more, which as a float is no longer told from its neighbours

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What is known about the canonical texts of a column, or of part of one."""

    kinds: frozenset[str] = field(default_factory=frozenset)  # the types that it has; none for a column of nulls
    values: bool = False  # whether there is any value
    whole: bool = True  # all are integers,
    exact: bool = True  # and written as we write integers
    number: bool = True  # all are numbers
    coded: bool = False  # some are zip codes such as 02134, or have 16 digits and more

    def __add__(self, other: "Facts") -> "Facts":
        return Facts(
            self.kinds | other.kinds,
            self.values or other.values,
            self.whole and other.whole,
            self.exact and other.exact,
            self.number and other.number,
            self.coded or other.coded,
        )


def facts_of(column: pa.ChunkedArray) -> Facts:
    kind = column.type
    if pa.types.is_null(kind):
        return Facts()
    kinds = frozenset({str(kind)})
    values = pc.list_flatten(column) if pa.types.is_large_list(kind) else column
    if values.null_count == len(values):
        return Facts(kinds)
    if pa.types.is_boolean(kind):
        return Facts(kinds, True, whole=False, exact=False, number=False)
    if values.type == TEXT:
        return _facts_of_text(kinds, values)
    numbers = values.drop_null().to_numpy()
    floats = numbers.astype(np.float64)
    floats = floats[~np.isnan(floats)]
    whole = bool(np.all((np.floor(floats) == floats) & (np.abs(floats) < 2**63)))
    return Facts(kinds, len(floats) > 0, whole=whole, coded=bool(np.any(np.abs(floats) >= NAMED_BY_DIGITS)))


def _facts_of_text(kinds: frozenset[str], texts: pa.ChunkedArray) -> Facts:
    if len(texts) > FIRST and not (first := _facts_of_text(kinds, texts.slice(0, FIRST))).number:
        return first  # found without all texts being tried
    whole = _as(pa.int64(), texts)
    exact = whole is not None and whole.cast(TEXT).equals(texts)
    number = exact or _as(pa.float64(), texts) is not None  # 0x1f is an integer to Arrow, but no number
    return Facts(kinds, True, whole=whole is not None, exact=exact, number=number, coded=number and _is_coded(texts))


def _as(kind: pa.DataType, texts: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """The texts as numbers; None if one of them is no such number."""
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        return None


def _is_coded(texts: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.match_substring_regex(texts, r"^[+-]?(?:0[0-9]|[0-9]{16})")).as_py())


def type_of(facts: Facts) -> pa.DataType | None:
    """The type of a column in our table; None for one that is left out."""
    kinds = [KINDS[name] for name in facts.kinds]
    lists = [pa.types.is_large_list(kind) for kind in kinds]
    if len(kinds) == 1 and kinds[0] != TEXT:
        return kinds[0]
    if any(lists):
        if not all(lists):
            return None
        return pa.large_list(pa.float64() if facts.number else TEXT)
    if not facts.values:
        return TEXT
    if facts.whole:
        return pa.int64() if facts.exact else TEXT
    return pa.float64() if facts.number and not facts.coded else TEXT


def together(columns: Iterable[dict[str, Facts]]) -> dict[str, Facts]:
    """What is known about the side columns of all blocks."""
    found: dict[str, Facts] = {}
    for block in columns:
        for name, facts in block.items():
            found[name] = found.get(name, Facts()) + facts
    return found


def decided(columns: Iterable[dict[str, Facts]]) -> dict[str, pa.DataType]:
    """The side columns of a table and their types, from those of its blocks. A column that is left out is logged."""
    found = together(columns)
    kinds = {name: type_of(facts) for name, facts in found.items()}
    for name in sorted(name for name, kind in kinds.items() if kind is None):
        types = " and ".join(sorted(found[name].kinds))
        log.warning("column %r is left out, because it holds %s in different files; write it alike", name, types)
    return {name: kind for name, kind in kinds.items() if kind is not None}


def cast(table: pa.Table, ours: pa.Schema, sides: dict[str, pa.DataType]) -> pa.Table:
    """A block with the columns of our schema, and with the side columns of the whole table in their types."""
    there = set(table.column_names)
    columns = {name: table[name] for name in ours.names if name in there}
    for name, kind in sides.items():
        columns[name] = _cast_column(table[name], kind) if name in there else pa.nulls(table.num_rows, kind)
    return pa.table(columns)


def _cast_column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    if column.type == kind:
        return column
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), kind)
    if pa.types.is_large_list(kind):
        return pa.chunked_array([_cast_lists(chunk, kind) for chunk in column.chunks], kind)
    return texts_of(column).cast(kind)


def _cast_lists(lists: pa.Array, kind: pa.DataType) -> pa.Array:
    return relisted(lists, texts_of(pc.list_flatten(lists)).cast(kind.value_type))
