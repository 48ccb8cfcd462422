"""Cuts a log by time into training, validation and test: one rule for everything that learns from the log."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rayrec.config import Split
from rayrec.data.errors import DataError

NAMES = ("training", "validation", "test")


@dataclass(frozen=True)
class LogSplit:
    """Which rows of a log in time order belong to which split. Each split follows the one before it."""

    train_end: int  # the first row behind the training split
    validation_end: int
    rows: int  # of the whole log: the test split ends here
    validation_at: int  # UTC ms, when validation begins
    test_at: int  # UTC ms, when the test begins

    @property
    def train(self) -> slice:
        return slice(0, self.train_end)

    @property
    def validation(self) -> slice:
        return slice(self.train_end, self.validation_end)

    @property
    def test(self) -> slice:
        return slice(self.validation_end, self.rows)


def split_rows(rows: int, split: Split) -> tuple[int, int]:
    """The rows of a log of so many rows whose times are those at which validation and test begin."""
    validation, test = int(rows * (1 - split.test - split.validation)), int(rows * (1 - split.test))
    return min(validation, rows - 1), min(test, rows - 1)


def split_log(rows: int, time_of: Callable[[int], int], first_row_at: Callable[[int], int], split: Split) -> LogSplit:
    """Cut a log of so many rows. Impressions of one moment stay together.

    `time_of` gives the time of a row (UTC ms), and `first_row_at` the first row of a time. Raises `DataError` when one of the
    splits would be empty.
    """
    found = LogSplit(0, 0, rows, 0, 0)
    if rows:
        validation_at, test_at = map(time_of, split_rows(rows, split))
        found = LogSplit(first_row_at(validation_at), first_row_at(test_at), rows, validation_at, test_at)
    for name, part in zip(NAMES, (found.train, found.validation, found.test), strict=True):
        if part.start == part.stop:
            raise DataError(
                f"interactions: {rows} rows can't be split by time into training, validation and test, because {name} would "
                f"be empty (split.validation={split.validation}, split.test={split.test}; rows of one moment stay together); "
                "provide more rows or change these shares"
            )
    return found


def split_in_memory(shown_at: np.ndarray, split: Split) -> LogSplit:
    """Cut a log whose times, int64 in order, are in memory. Raises `DataError` as `split_log` does."""
    return split_log(len(shown_at), lambda row: int(shown_at[row]), lambda time: int(np.searchsorted(shown_at, time)), split)
