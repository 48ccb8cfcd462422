"""Cuts a log by time into training, validation and test: one rule for everything that learns from the log."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rayrec.config import Split
from rayrec.data.fields import DataError


@dataclass(frozen=True)
class LogSplit:
    """Which rows of a log in time order belong to which split. Each split follows the one before it."""

    train_end: int  # the first row behind the training split
    validation_end: int
    rows: int  # of the whole log: the test split ends here
    validation_at: int  # UTC ms, when validation begins

    @property
    def train(self) -> slice:
        return slice(0, self.train_end)

    @property
    def validation(self) -> slice:
        return slice(self.train_end, self.validation_end)

    @property
    def test(self) -> slice:
        return slice(self.validation_end, self.rows)


def split_times(shown_at: np.ndarray, split: Split) -> tuple[int, int]:
    """The times (UTC ms) at which validation and test begin. Impressions of one moment stay together."""
    ordered = np.sort(shown_at)
    rows = [int(len(ordered) * (1 - split.test - split.validation)), int(len(ordered) * (1 - split.test))]
    validation, test = (int(ordered[min(row, len(ordered) - 1)]) for row in rows)
    return validation, test


def split_log(shown_at: Iterable[np.ndarray], split: Split) -> LogSplit:
    """Cut a log whose `shown_at` comes in pieces, each int64 (UTC ms).

    Raises `DataError` when the rows are not in time order, or when one of the splits would be empty.
    """
    at = np.concatenate([np.empty(0, np.int64), *shown_at])
    if (at[1:] < at[:-1]).any():
        raise DataError("interactions: the rows are not in the order of shown_at; run `rayrec ingest` again, which sorts them")
    times = split_times(at, split) if len(at) else (0, 0)
    train_end, validation_end = (int(row) for row in np.searchsorted(at, times))
    found = LogSplit(train_end, validation_end, len(at), times[0])
    for name, part in (("training", found.train), ("validation", found.validation), ("test", found.test)):
        if part.start == part.stop:
            raise DataError(
                f"interactions: {len(at)} rows can't be split by time into training, validation and test, because {name} would "
                f"be empty (split.validation={split.validation}, split.test={split.test}; rows of one moment stay together); "
                "provide more rows or change these shares"
            )
    return found
