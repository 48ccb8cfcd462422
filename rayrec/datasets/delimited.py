"""Reads CSV and other delimited text as columns of bytes. A broken row costs itself, in damaged files too.

Arrow reads a sound file. A file that it refuses, or in which a quote seems to have swallowed rows, is read record by record: a row
with too few or too many cells is one reject, and after a quote that is never closed, reading goes on in the next line.
"""

import csv
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from rayrec import tables
from rayrec.datasets.screening import STAGE, SourceTable
from rayrec.datasets.source import Damaged, Limits, in_blocks
from rayrec.tables import TableError
from rayrec.workspace.files import open_stream

LONGEST_ROW = 16 << 20  # bytes; the CSV reader works in blocks of this size, and a row must fit into a block
BATCH = 100_000  # records
SWALLOWED = 3  # so many whole rows between quotes are no text of several lines, but follow a quote that was not closed
OPEN_QUOTE = "opens a quote that is not closed"
UTF8 = "\xef\xbb\xbf"  # the mark of order at the beginning of a file, in Latin-1
# How files begin that only have the name of a CSV file, and what to do with them.
OTHER_FORMATS = {
    b"\xff\xfe": "is in UTF-16; save it as UTF-8",
    b"\xfe\xff": "is in UTF-16; save it as UTF-8",
    b"\0": "is in UTF-16, UTF-32 or binary; save it as UTF-8",
    b"\x1f\x8b": "is compressed (gzip); unpack it, or let its name end with .gz",
    b"\x28\xb5\x2f\xfd": "is compressed (Zstandard); unpack it, or let its name end with .zst",
    b"BZh": "is compressed (bzip2); unpack it, or let its name end with .bz2",
    b"PK\x03\x04": "is a ZIP archive or an Excel workbook; save the table as CSV in UTF-8",
    b"PAR1": "is a Parquet file; let its name end with .parquet",
}


@dataclass(frozen=True)
class Dialect:
    """How a file is written. `columns` names the columns of a file without a header."""

    columns: list[str] | None = None
    delimiter: str = ","
    encoding: str = "utf8"
    quotes: bool = True

    @property
    def first_row(self) -> int:
        """The number of the first row of data, where a header is row 1."""
        return 2 if self.columns is None else 1


def read_csv(
    path: str, columns: list[str] | None = None, delimiter: str = ",", encoding: str = "utf8", quotes: bool = True
) -> SourceTable:
    """All rows of a delimited text file, as `csv_blocks` gives them."""
    dialect, limits = Dialect(columns, delimiter, encoding, quotes), Limits()
    try:
        blocks = list(csv_blocks(path, limits, dialect))
    except Damaged:
        blocks = list(csv_blocks(path, limits, dialect, careful=True))
    rejected = [rejects for block in blocks for rejects in block.rejected]
    rows = np.concatenate([block.rows for block in blocks])
    return SourceTable(path, pa.concat_tables([block.table for block in blocks]), rows, rejected)


def csv_blocks(path: str, limits: Limits, dialect: Dialect | None = None, careful: bool = False) -> Iterator[SourceTable]:
    """The rows of a delimited text file, as columns of bytes. An empty cell is null, an empty line is no row.

    A row with too few or too many cells goes to the rejects, and so does one that opens a quote and never closes it. Raises
    `TableError` for a file that can't be opened or has no header, and `Damaged` if it must be read from the start and `careful`ly.
    """
    dialect = dialect or Dialect()
    try:
        with open_stream(path, TableError) as stream:
            check_format(path, stream.read(4))
        yield from _damaged_blocks(path, dialect) if careful else _sound_blocks(path, limits, dialect)
    except OSError as error:
        raise TableError(f"{path}: not a readable CSV file: {error}") from error


def check_format(path: str, head: bytes) -> None:
    """Raise `TableError` for a file that is no text in UTF-8, by its first four bytes."""
    head = head[1:] if head[1:2] == b"\0" else head  # a letter of UTF-16, before the zero byte that tells it apart
    for start, sentence in OTHER_FORMATS.items():
        if head.startswith(start):
            raise TableError(f"{path}: the file {sentence}")


def check_names(path: str, names: list[str]) -> None:
    """Raise `TableError` if two columns have the same name, or if there is one whose name is a header with other separators."""
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{path}: {names.count(name)} columns are named {name!r}; rename all but one")
    if len(names) == 1 and (other := re.search(r"[;\t|]", names[0])):
        raise TableError(f"{path}: the header {names[0][:80]!r} is separated by {other[0]!r}; separate columns by commas")


# --- sound files -----------------------------------------------------------------------------------------------------------------


def _sound_blocks(path: str, limits: Limits, dialect: Dialect) -> Iterator[SourceTable]:
    reading = arrow_csv.ReadOptions(block_size=LONGEST_ROW, column_names=dialect.columns, encoding=dialect.encoding)
    parsing = arrow_csv.ParseOptions(
        delimiter=dialect.delimiter, quote_char='"' if dialect.quotes else False, newlines_in_values=dialect.quotes
    )
    try:
        with open_stream(path, TableError) as stream:
            names = arrow_csv.open_csv(stream, reading, parsing).schema.names
        check_names(path, names)
        types = dict.fromkeys(names, pa.binary())
        as_bytes = arrow_csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True)
        with open_stream(path, TableError) as stream:
            reader = arrow_csv.open_csv(stream, reading, parsing, as_bytes)
            batches = _unswallowed(reader, path, dialect) if dialect.quotes else reader
            row = dialect.first_row
            for table in in_blocks(batches, reader.schema, limits.block_rows, limits.block_bytes):
                yield SourceTable.of(path, table, row)
                row += table.num_rows
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise Damaged(path) from error  # some row or the header is broken


def _unswallowed(batches: Iterable[pa.RecordBatch], path: str, dialect: Dialect) -> Iterator[pa.RecordBatch]:
    """The batches. Raises `Damaged` where a cell holds whole rows, or a line break and a quote, or the file ends within quotes.

    This happens in sound files too, which are then only read more slowly.
    """
    separator, last = re.escape(dialect.delimiter), None
    for batch in batches:
        row = rf"(?:[^{separator}\n]*{separator}){{{batch.num_columns - 1}}}[^{separator}\n]*\n"
        pattern = rf'\n(?:(?:.|\n)*"|(?:{row}){{{SWALLOWED}}})'
        for column in batch.columns:
            data = column.buffers()[2]
            if data is None or not (np.frombuffer(data, np.uint8) == ord("\n")).any():
                continue
            if pc.any(pc.match_substring_regex(column, pattern)).as_py():
                raise Damaged(path)
        if batch.num_rows:
            last = batch.columns[-1][-1].as_py()
        yield batch
    if last is not None and b"\n" in last and not _ending(path).rstrip(b"\r\n").endswith(b'"'):
        raise Damaged(path)


def _ending(path: str) -> bytes:
    """The last four bytes of a file."""
    found = b""
    with open_stream(path, TableError) as stream:
        while more := stream.read(2**20):
            found = (found + more)[-4:]
    return found


# --- damaged files ---------------------------------------------------------------------------------------------------------------


def _damaged_blocks(path: str, dialect: Dialect) -> Iterator[SourceTable]:
    """As `csv_blocks`, record by record."""
    with open_stream(path, TableError) as stream:
        # Latin-1 gives each byte a character, so that every byte can be read and given back.
        lines = _Lines(io.TextIOWrapper(stream, encoding="latin1", newline=""))
        lines.skip(UTF8)
        records = _Records(lines, dialect)
        names = dialect.columns
        if names is None:
            header = next(iter(records), None)
            if header is None:
                raise TableError(f"{path}: not a readable CSV file: Empty, without even a header")
            names = [_bytes_of(name, dialect).decode(errors="replace") for name in header]
        check_names(path, names)
        records.width = len(names)
        good, done = iter(records), False
        while not done:
            first = records.number
            batch = list(islice(good, BATCH))
            done = len(batch) < BATCH
            columns = [[_bytes_of(cell, dialect) or None for cell in cells] for cells in zip(*batch, strict=True)] or [[]] * len(
                names
            )
            table = pa.table([pa.array(cells, pa.binary()) for cells in columns], names)
            yield _without_rejects(path, table, first + dialect.first_row, records)


def _bytes_of(cell: str, dialect: Dialect) -> bytes:
    raw = cell.encode("latin1")
    return raw if dialect.encoding == "utf8" else raw.decode(dialect.encoding, errors="replace").encode()


def _without_rejects(path: str, table: pa.Table, first_row: int, records: "_Records") -> SourceTable:
    """The good rows of a block, and the rejects before, between and behind them, which are taken from the records."""
    rejected, records.rejected = records.rejected, {}
    bad = np.zeros(table.num_rows + len(rejected), dtype=bool)
    bad[np.array([*rejected], np.int64) + records.dialect.first_row - first_row] = True
    no_ids = pa.table({"id": pa.nulls(len(bad), tables.TEXT)})
    rejects = tables.rejects(STAGE, path, no_ids, bad, list(rejected.values()), "id", first_row)
    return SourceTable(path, table, np.flatnonzero(~bad) + first_row, [rejects])


class _Lines:
    """The lines of a file. `taken` holds those of the present record; all but the first may be given back."""

    def __init__(self, stream: Iterable[str]) -> None:
        self._stream, self._back = iter(stream), deque[str]()
        self.taken: list[str] = []
        self._size = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self._size > LONGEST_ROW:
            raise StopIteration  # for the reader of the record, which is then an unfinished one
        line = self._back.popleft() if self._back else next(self._stream)
        self.taken.append(line)
        self._size += len(line)
        return line

    def begin_record(self) -> None:
        self.taken, self._size = [], 0

    def skip(self, prefix: str) -> None:
        """Leave out these characters if the file begins with them."""
        first = next(self._stream, None)
        if first is not None:
            self._back.append(first.removeprefix(prefix))

    def give_back(self) -> None:
        """Return to the line behind the first one of the record."""
        self._back.extendleft(reversed(self.taken[1:]))


@dataclass
class _Records:
    """The rows of a file that have `width` cells (any number while it is None); the others go to `rejected`, by their number."""

    lines: _Lines
    dialect: Dialect
    width: int | None = None
    rejected: dict[int, str] = field(default_factory=dict)  # until somebody takes them
    number: int = 0  # of the next row of data, good or bad

    def __iter__(self) -> Iterator[list[str]]:
        csv.field_size_limit(LONGEST_ROW)
        while True:
            self.lines.begin_record()
            try:
                cells, fault = next(self._reader(self.lines)), ""
            except StopIteration:
                return
            except csv.Error:
                cells, fault = self._first_line()
            if not cells:
                continue  # an empty line
            if self.width is None:
                yield cells
                return
            if not fault and self._holds_rows(self.lines.taken[1:-1]):
                self.lines.give_back()
                fault = OPEN_QUOTE
            elif not fault and len(cells) != self.width:
                fault = f"has {len(cells)} cells, the table {self.width} columns"
            self.number += 1
            if fault:
                self.rejected[self.number - 1] = f"{fault}: {self.lines.taken[0].rstrip()[:80]!r}"
            else:
                yield cells

    def _first_line(self) -> tuple[list[str], str]:
        """The cells of the first line of a record with broken quotes, and what is wrong with it; gives its other lines back."""
        self.lines.give_back()
        first = self.lines.taken[0]
        tolerant = self._reader([first, ""], strict=False)
        cells = next(tolerant)
        return cells, OPEN_QUOTE if tolerant.line_num > 1 else ""

    def _holds_rows(self, lines: list[str]) -> bool:
        """Whether these lines, which a record has between its first and its last, are rows of the table."""
        return len(lines) >= SWALLOWED and all(line.count(self.dialect.delimiter) + 1 == self.width for line in lines)

    def _reader(self, lines: Iterable[str], strict: bool = True) -> Any:
        """Python's reader of CSV; with `strict` it raises `csv.Error` where quotes don't fit together."""
        options: dict[str, Any] = {} if self.dialect.quotes else {"quoting": csv.QUOTE_NONE}
        return csv.reader(lines, delimiter=self.dialect.delimiter, strict=strict, **options)
