"""Cuts a log into training, validation and test: one rule for everything that learns from the log.

A log is cut by time. One without times has made-up ones (`tables.PART_MS`): it is cut between the parts of a given split, or at the
shares of the config, which then are shares of the rows of each user.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rayrec.config import Split
from rayrec.data.errors import DataError
from rayrec.tables import DRAWN_AT, PART_MS, PARTS

SplitBy = Literal["time", "user", "file"]
IN_WORDS: dict[SplitBy, str] = {"time": "by time", "user": "at random for each user", "file": "as it is given"}


@dataclass(frozen=True)
class LogSplit:
    """Which rows of a log in time order belong to which split. Each split follows the one before it."""

    train_end: int  # the first row behind the training split
    validation_end: int
    rows: int  # of the whole log: the test split ends here
    validation_at: int  # UTC ms, when validation begins
    test_at: int  # UTC ms, when the test begins
    by: SplitBy = "time"

    @property
    def train(self) -> slice:
        return slice(0, self.train_end)

    @property
    def validation(self) -> slice:
        return slice(self.train_end, self.validation_end)

    @property
    def test(self) -> slice:
        return slice(self.validation_end, self.rows)


@dataclass(frozen=True)
class LogTimes:
    """The times of a log of so many rows, at least one, which are in their order."""

    rows: int
    of_row: Callable[[int], int]  # the time of a row (UTC ms)
    first_row_at: Callable[[int], int]  # the first row of a time or a later one; the number of rows for a time behind all

    def cuts(self, split: Split) -> tuple[int, int, SplitBy]:
        """When validation and test begin (UTC ms), also in a log that is too small for either, and what the log is split by."""
        first, last = self.of_row(0), self.of_row(self.rows - 1)
        if first < DRAWN_AT or last >= DRAWN_AT + len(PARTS) * PART_MS:
            validation, test = split_rows(self.rows, split)
            return self.of_row(validation), self.of_row(test), "time"
        ends = [DRAWN_AT + number * PART_MS for number in range(1, len(PARTS))]
        if last < ends[0]:
            return _behind(1 - split.test - split.validation), _behind(1 - split.test), "user"
        given = self.first_row_at(ends[0]) < self.first_row_at(ends[1])
        return ends[0] if given else _behind(1 - split.validation), ends[1], "file"


def _behind(share: float) -> int:
    """The time behind which are the rows that follow this share of each user's training rows, in a log without times."""
    return DRAWN_AT + round(share * PART_MS)


def split_rows(rows: int, split: Split) -> tuple[int, int]:
    """The rows of a log of so many rows whose times are those at which validation and test begin."""
    validation, test = int(rows * (1 - split.test - split.validation)), int(rows * (1 - split.test))
    return min(validation, rows - 1), min(test, rows - 1)


def split_log(times: LogTimes, split: Split) -> LogSplit:
    """Cut a log. Impressions of one moment stay together. Raises `DataError` when one of the splits would be empty."""
    found = LogSplit(0, 0, times.rows, 0, 0)
    if times.rows:
        validation_at, test_at, by = times.cuts(split)
        found = LogSplit(times.first_row_at(validation_at), times.first_row_at(test_at), times.rows, validation_at, test_at, by)
    for name, part in zip(PARTS, (found.train, found.validation, found.test), strict=True):
        if part.start == part.stop and found.by == "file":
            raise DataError(
                f"interactions: the split that the data set gives has no rows for {name}; give some, or leave out the split, so "
                "that rayrec makes one"
            )
        if part.start == part.stop:
            raise DataError(
                f"interactions: {times.rows} rows can't be split {IN_WORDS[found.by]} into training, validation and test, because "
                f"{name} would be empty (split.validation={split.validation}, split.test={split.test}; rows of one moment stay "
                "together); provide more rows or change these shares"
            )
    return found


def split_in_memory(shown_at: np.ndarray, split: Split) -> LogSplit:
    """Cut a log whose times, int64 in order, are in memory. Raises `DataError` as `split_log` does."""
    times = LogTimes(len(shown_at), lambda row: int(shown_at[row]), lambda time: int(np.searchsorted(shown_at, time)))
    return split_log(times, split)
