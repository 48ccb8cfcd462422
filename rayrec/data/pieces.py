"""The log as its part files, each of which one process can read: what is known of them without reading their rows."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec.config import Split
from rayrec.data.errors import DataError
from rayrec.data.split import LogSplit, LogTimes, split_log
from rayrec.workspace.parts import read_checked, read_footer

TIME = "shown_at"


@dataclass(frozen=True)
class LogPiece:
    """A part file of the interactions with rows in time order."""

    number: int
    path: str
    digest: str  # SHA-256
    first: int  # the number of its first row in the whole log
    rows: int
    begin: int  # UTC ms, the time of its first row
    end: int  # UTC ms, the time of its last row

    def read(self, fs: pafs.FileSystem, columns: Iterable[str]) -> pa.Table:
        """Those of the columns that the file has. Raises `WorkspaceError` if it is damaged."""
        return read_checked(fs, self.path, self.digest, "interactions", columns)


@dataclass(frozen=True)
class LogPieces:
    """All part files of a log, in time order."""

    fs: pafs.FileSystem
    pieces: list[LogPiece]
    columns: list[str]

    @classmethod
    def of(cls, fs: pafs.FileSystem, digests: Mapping[str, str]) -> Self:
        """From the paths of the part files and the SHA-256 of each, which is compared when the file is read.

        Raises `DataError` for files that are not in time order, and `WorkspaceError` for one that is missing or can't be read.
        """
        pieces: list[LogPiece] = []
        columns: list[str] = []
        first = 0
        for path, digest in digests.items():
            facts = read_footer(fs, path, "interactions")
            columns = facts.schema.to_arrow_schema().names
            if facts.num_rows:
                begin, end = _times(fs, path, facts)
                refuse_disorder(not pieces or pieces[-1].end <= begin)
                pieces.append(LogPiece(len(pieces), path, digest, first, facts.num_rows, begin, end))
                first += facts.num_rows
        return cls(fs, pieces, columns)

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)

    def split(self, split: Split) -> LogSplit:
        """Raises `DataError` as `split_log` does. It reads the times of the two or three pieces in which the log is cut."""
        return split_log(self._times, split)

    def validation_at(self, split: Split) -> int:
        """When validation begins (UTC ms), also where the log is too small to be split."""
        return self._times.cuts(split)[0]

    @property
    def _times(self) -> LogTimes:
        return LogTimes(self.rows, self._time_of, self._first_row_at)

    @cached_property
    def _read_times(self) -> dict[int, np.ndarray]:
        return {}

    def _times_of(self, piece: LogPiece) -> np.ndarray:
        if piece.number not in self._read_times:
            self._read_times[piece.number] = piece.read(self.fs, [TIME])[TIME].to_numpy()
        return self._read_times[piece.number]

    def _time_of(self, row: int) -> int:
        piece = self.pieces[bisect_right(self.pieces, row, key=lambda piece: piece.first) - 1]
        return int(self._times_of(piece)[row - piece.first])

    def _first_row_at(self, time: int) -> int:
        number = bisect_left(self.pieces, time, key=lambda piece: piece.end)
        if number == len(self.pieces):
            return self.rows
        piece = self.pieces[number]
        return piece.first + int(np.searchsorted(self._times_of(piece), time))


def refuse_disorder(ordered: bool) -> None:
    """Raise `DataError` unless a log is in time order."""
    if not ordered:
        raise DataError("interactions: the rows are not in the order of shown_at; run `rayrec ingest CONFIG`, which sorts them")


def _times(fs: pafs.FileSystem, path: str, facts: pq.FileMetaData) -> tuple[int, int]:
    """The smallest and the largest time in a file, from its statistics where it has any."""
    column = facts.schema.to_arrow_schema().get_field_index(TIME)
    found = [facts.row_group(group).column(column).statistics for group in range(facts.num_row_groups)]
    if all(each is not None and each.has_min_max for each in found):
        return min(each.min for each in found), max(each.max for each in found)
    times = pq.read_table(path, filesystem=fs, columns=[TIME])[TIME].to_numpy()
    return int(times.min()), int(times.max())
