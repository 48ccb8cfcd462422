"""The context of a request (device, network, hour, ...) as integers: [B, C] values, 0 for a value that training never saw.

The field `position` is not what a request comes with, but where in the page a video was. People click what is first, whatever it
is; a ranker that has the field learns this of the training impressions, so that it need not blame the videos for it. Nobody knows
the position of a candidate before the page is made: all are scored as if they were in the first one that training saw, and so are
the impressions of the validation and test parts, with which the ranker is measured as it will serve.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.data.errors import DataError
from rayrec.data.split import LogSplit
from rayrec.data.vocabulary import appended, indices_of, value_indices, value_texts
from rayrec.errors import did_you_mean
from rayrec.tables import TEXT
from rayrec.values import text_of

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
# Context fields that follow from the time of the request (UTC): name -> (number of values, int64 ms -> value from 0).
FROM_TIME = {
    "hour": (24, lambda at: at // HOUR_MS % 24),
    "weekday": (7, lambda at: (at // DAY_MS + 3) % 7),  # 1 January 1970 was a Thursday; 0 is Monday
}


POSITION = "position"  # the field that training alone has; see above


def columns_of(fields: list[str]) -> list[str]:
    """The context fields that are columns of the log."""
    return [name for name in fields if name not in FROM_TIME]


def refuse_unknown_context(fields: list[str], log_columns: list[str]) -> None:
    """Raise a `DataError` for a field that is neither a column of the log nor one that follows from the time."""
    for name in columns_of(fields):
        if name not in log_columns:
            near = did_you_mean(name, [*log_columns, *FROM_TIME])
            raise DataError(f"ranker.context_fields: the log has no column {name!r}{near}")


def refuse_times_of_day(fields: list[str], split: LogSplit) -> None:
    """Raise a `DataError` for a field that follows from the time, where the log has no times."""
    for name in fields:
        if name in FROM_TIME and split.by != "time":
            raise DataError(f"ranker.context_fields: {name!r} follows from the times of the log, which has none; remove it")


def value_of_time(name: str, at: np.ndarray) -> np.ndarray:
    """The value, from 1, of a context field of `FROM_TIME` at each of these times (UTC ms)."""
    return FROM_TIME[name][1](at) + 1


@dataclass(frozen=True)
class ContextEncoder:
    """The context fields in order, and the vocabulary of each that is a column of the log (the index of a value counts from 1)."""

    fields: list[str]
    vocabularies: dict[str, list[str]]

    @classmethod
    def fit(cls, fields: list[str], values: Callable[[str], pa.Array | pa.ChunkedArray]) -> "ContextEncoder":
        """Fit on `values`, which gives the distinct values of a column in the training part of the log; null may be one of them."""
        words = {name: value_texts(name, values(name)).drop_null().unique().to_pylist() for name in columns_of(fields)}
        return cls(list(fields), {name: sorted(found) for name, found in words.items()})

    def only(self, fields: list[str]) -> "ContextEncoder":
        """The encoder of some of its fields."""
        return ContextEncoder(list(fields), {name: self.vocabularies[name] for name in columns_of(fields)})

    def grown(self, newer: "ContextEncoder") -> "ContextEncoder":
        """This encoder with the values that only a newer one of the same fields has, behind its own."""
        return ContextEncoder(
            self.fields, {name: appended(own, newer.vocabularies[name]) for name, own in self.vocabularies.items()}
        )

    def translation(self, other: "ContextEncoder") -> dict[str, np.ndarray]:
        """For each field whose values differ, the value in `other` of each value here: 0 where it is unknown there."""
        differing = [name for name in other.vocabularies if self.vocabularies[name] != other.vocabularies[name]]
        here, there = ({name: pa.array(each.vocabularies[name], TEXT) for name in differing} for each in (self, other))
        return {name: np.append(0, indices_of(here[name], there[name], 1)).astype(other.kind) for name in differing}

    @property
    def kind(self) -> np.dtype:
        """The type of the values."""
        return np.dtype(np.int16 if max(self.sizes.values(), default=0) < 2**15 else np.int32)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of values of each field, the unknown one included."""
        return {name: 1 + (FROM_TIME[name][0] if name in FROM_TIME else len(self.vocabularies[name])) for name in self.fields}

    @property
    def neutral_position(self) -> int:
        """The value that stands for any position where candidates are scored: that of the first one that training saw."""
        numbers = self.vocabularies[POSITION]
        return 1 + min(range(len(numbers)), key=lambda place: (len(numbers[place]), numbers[place])) if numbers else 0

    def without_position(self, values: np.ndarray) -> np.ndarray:
        """Values [rows, C] as they are for scoring."""
        if POSITION not in self.fields:
            return values
        values = values.copy()
        values[:, self.fields.index(POSITION)] = self.neutral_position
        return values

    def encode(self, log: pa.Table, at: np.ndarray) -> np.ndarray:
        """The values of the rows of the log: int16 [rows, C] where they fit, which is nearly always, else int32."""
        values = np.zeros((len(at), len(self.fields)), dtype=self.kind)
        for column, name in enumerate(self.fields):
            if name in FROM_TIME:
                values[:, column] = value_of_time(name, at)
            elif name in log.column_names:
                values[:, column] = value_indices(name, log[name], pa.array(self.vocabularies[name], TEXT))
        return values

    def decode(self, values: np.ndarray) -> dict[str, str]:
        """The context of a request, without what is unknown and what follows from the time, from its values [C]."""
        found = dict(zip(self.fields, values.tolist(), strict=True))
        return {name: words[found[name] - 1] for name, words in self.vocabularies.items() if found[name]}

    def encode_requests(self, contexts: list[dict[str, Any]], at: np.ndarray) -> np.ndarray:
        """The values of requests. Each context maps fields to values; a missing field is unknown. `at` is int64 [B], UTC ms.

        Whatever a context says of the position, it makes no difference.
        """
        columns = {name: pa.array([text_of(row.get(name)) for row in contexts], TEXT) for name in self.vocabularies}
        return self.without_position(self.encode(pa.table(columns), at))


NO_CONTEXT = ContextEncoder([], {})
