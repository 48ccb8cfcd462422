"""Where a table of a data set comes from: pieces that are read apart from each other, each as a stream of blocks.

No process ever needs the whole of a table, nor of a file. A small data set that is in memory anyway is one piece of one block.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa

from rayrec.datasets.screening import SourceTable
from rayrec.tables import TEXT


@dataclass(frozen=True)
class Limits:
    """How many rows and bytes are held at a time."""

    block_rows: int = 2**19  # of a source
    block_bytes: int = 2**27
    part_rows: int = 2**20  # of a file of our tables
    part_bytes: int = 2**28
    batch_rows: int = 2**13  # of a sorted run: what is read of it at least


class Damaged(Exception):  # noqa: N818 (it is no error of the user's)
    """A file turned out to be damaged after some of its blocks. They do not count: it must be read with care from the start."""


class Piece(Protocol):
    """A share of a source that one process reads. It can be sent to another process. Its `repr` tells it from others."""

    @property
    def files(self) -> Sequence[str]: ...

    def without(self, files: Container[str]) -> "Piece | None":
        """What it has of other files, if anything."""

    def blocks(self, limits: Limits, careful: bool = False) -> Iterator[SourceTable]:
        """The rows in our columns and types, one block at least. Raises `Damaged` if it must be read anew and `careful`ly."""


@dataclass(frozen=True, repr=False)
class WholeTable:
    """A piece that is in memory."""

    table: SourceTable
    files: tuple[str, ...] = ()

    def without(self, files: Container[str]) -> "WholeTable":
        return self

    def __repr__(self) -> str:
        return f"{self.table.source}: {self.table.read} rows"

    def blocks(self, limits: Limits, careful: bool = False) -> Iterator[SourceTable]:
        yield self.table


@dataclass(frozen=True)
class Source:
    """The pieces of a table, in the order of its rows, and how many rows they have, about."""

    name: str
    pieces: Sequence[Piece]
    rows: int

    @property
    def files(self) -> list[str]:
        """The files that the pieces read, in their order."""
        return list(dict.fromkeys(path for piece in self.pieces for path in piece.files))

    def without(self, files: Container[str]) -> "Source":
        """What comes from other files."""
        found = (piece.without(files) for piece in self.pieces)
        return replace(self, pieces=[piece for piece in found if piece])

    @classmethod
    def of(cls, table: SourceTable) -> "Source":
        """A table that is in memory. Its text becomes that of our tables."""
        kinds = [field.with_type(TEXT) if field.type == pa.string() else field for field in table.table.schema]
        table.table = table.table.cast(pa.schema(kinds))
        return cls(table.source, [WholeTable(table)], table.read)


def in_blocks(batches: Iterable[pa.RecordBatch], schema: pa.Schema, rows: int, size: int) -> Iterator[pa.Table]:
    """The batches joined to tables of so many rows or bytes, about; one table without rows if there are no batches."""
    held: list[pa.RecordBatch] = []
    held_rows = held_bytes = 0
    empty = True
    for batch in batches:
        if held and (held_rows + batch.num_rows > rows or held_bytes + batch.nbytes > size):
            yield pa.Table.from_batches(held, schema)
            held, held_rows, held_bytes, empty = [], 0, 0, False
        held.append(batch)
        held_rows, held_bytes = held_rows + batch.num_rows, held_bytes + batch.nbytes
    if held or empty:
        yield pa.Table.from_batches(held, schema)
