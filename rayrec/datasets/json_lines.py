"""Reads JSON lines: a text file with one JSON object a line. A line that is none costs itself.

Arrow reads a block of lines at once. Where it refuses a block, or would not keep every value as it is written, the lines of the
block are read one by one.
"""

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as arrow_json

from rayrec import tables
from rayrec.datasets.screening import STAGE, SourceTable
from rayrec.datasets.source import Limits
from rayrec.tables import TEXT, TableError
from rayrec.values import text_of
from rayrec.workspace.files import open_stream

READ = 16 << 20  # bytes at a time
LONGEST_LINE = 64 << 20  # bytes
EXACT = 2**53  # from here on, a float is not told from its neighbours
MARK = b"\xef\xbb\xbf"  # the mark of order at the beginning of a file


def json_blocks(path: str, limits: Limits) -> Iterator[SourceTable]:
    """The rows of the file, counted from 1; an empty line is no row.

    A block has all columns of the blocks before. Raises `TableError` for a file that can't be read or has no object.
    """
    number, names = 1, dict[str, None]()
    try:
        for lines in _lines(path, min(READ, limits.block_bytes)):
            block = _read_block(path, lines, number)
            names |= dict.fromkeys(block.table.column_names)
            for name in names.keys() - {*block.table.column_names}:
                block.table = block.table.append_column(name, pa.nulls(block.table.num_rows))
            if number == 1 and not block.table.num_rows:
                raise TableError(f"{path}: not JSON lines: {block.rejects['reason'][0]}; write one object {{...}} a line")
            number += block.read
            yield block
    except OSError as error:
        raise TableError(f"{path}: not readable JSON lines: {error}") from error
    if number == 1:
        raise TableError(f"{path}: not readable JSON lines: the file is empty")


def _lines(path: str, size: int) -> Iterator[bytes]:
    """The file in pieces of whole lines, about `size` bytes each, without those that are blank."""
    with open_stream(path, TableError) as stream:
        rest = stream.read(len(MARK)).removeprefix(MARK)
        while more := stream.read(size):
            whole, mark, begun = more.rpartition(b"\n")
            if mark:
                yield from filter(bytes.strip, [rest + whole])
                rest = begun
            else:
                rest += more
            if len(rest) > LONGEST_LINE:
                raise TableError(f"{path}: not JSON lines: a line is longer than {LONGEST_LINE >> 20} MiB")
        yield from filter(bytes.strip, [rest])


def _read_block(path: str, lines: bytes, first: int) -> SourceTable:
    table = _read_whole(lines)
    return _read_singly(path, lines, first) if table is None else SourceTable.of(path, table, first)


def _read_whole(lines: bytes) -> pa.Table | None:
    """The lines as Arrow reads them; None where it can't, or would change a value."""
    try:
        table = _parsed(lines)
        if dated := [field for field in table.schema if _with_texts(field.type) != field.type]:
            table = _parsed(lines, pa.schema([pa.field(field.name, _with_texts(field.type)) for field in dated]))
        lines.decode()
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None
    rows = sum(1 for line in lines.split(b"\n") if line.strip())
    return table if table.num_rows == rows and all(map(_is_exact, table.columns)) else None


def _parsed(lines: bytes, schema: pa.Schema | None = None) -> pa.Table:
    reading = arrow_json.ReadOptions(block_size=max(len(lines) + 1, 64))
    return arrow_json.read_json(io.BytesIO(lines), reading, arrow_json.ParseOptions(explicit_schema=schema))


def _with_texts(kind: pa.DataType) -> pa.DataType:
    """The type with text in the place of times, as which Arrow reads texts that look like dates."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_with_texts(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _with_texts(field.type)) for field in kind])
    return kind


def _is_exact(column: pa.ChunkedArray) -> bool:
    """Whether no integer has become a float that may be another number."""
    values = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    return not pa.types.is_floating(values.type) or (pc.max(pc.abs(values)).as_py() or 0) < EXACT


def _read_singly(path: str, lines: bytes, first: int) -> SourceTable:
    rows: list[dict[str, Any]] = []
    rejected: dict[int, str] = {}
    for line in filter(bytes.strip, lines.split(b"\n")):
        try:
            row = json.loads(text := line.decode())
            if not isinstance(row, dict):
                raise ValueError(f"is a {type(row).__name__}")
            if "\\u" in text:
                json.dumps(row, ensure_ascii=False).encode()  # half of a pair is no letter
            rows.append(row)
        except (ValueError, RecursionError):
            shown = line.decode(errors="replace").strip()[:80]
            rejected[len(rows) + len(rejected)] = f"is not a JSON object: {shown!r}"
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names}) if names else _no_columns(len(rows))
    bad = np.zeros(len(rows) + len(rejected), dtype=bool)
    bad[np.array([*rejected], np.int64)] = True
    no_ids = pa.table({"id": pa.nulls(len(bad), TEXT)})
    rejects = tables.rejects(STAGE, path, no_ids, bad, list(rejected.values()), "id", first)
    return SourceTable(path, table, np.flatnonzero(~bad) + first, [rejects])


def _column(values: list[Any]) -> pa.Array:
    """The values in their common type; as text if there is none, or if integers are too large for it."""
    kinds = {type(value) for value in values if value is not None}
    exact = kinds != {int, float} or all(abs(value) < EXACT for value in values if isinstance(value, int))
    if exact and (bool not in kinds or len(kinds) == 1):
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            pass
    return pa.array([json.dumps(value) if isinstance(value, list | dict) else text_of(value) for value in values], TEXT)


def _no_columns(rows: int) -> pa.Table:
    return pa.table({"": pa.nulls(rows)}).select([])
