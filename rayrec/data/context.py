"""The context of a request (device, network, hour, ...) as integers: [B, C] values, 0 for a value that training never saw."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.data.fields import DataError, indices_of
from rayrec.errors import did_you_mean

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
# Context fields that follow from the time of the request (UTC): name -> (number of values, int64 ms -> value from 0).
FROM_TIME = {
    "hour": (24, lambda at: at // HOUR_MS % 24),
    "weekday": (7, lambda at: (at // DAY_MS + 3) % 7),  # 1 January 1970 was a Thursday; 0 is Monday
}


def columns_of(fields: list[str]) -> list[str]:
    """The context fields that are columns of the log."""
    return [name for name in fields if name not in FROM_TIME]


def refuse_unknown_context(fields: list[str], log_columns: list[str]) -> None:
    """Raise a `DataError` for a field that is neither a column of the log nor one that follows from the time."""
    for name in columns_of(fields):
        if name not in log_columns:
            near = did_you_mean(name, [*log_columns, *FROM_TIME])
            raise DataError(f"ranker.context_fields: the log has no column {name!r}{near}")


@dataclass(frozen=True)
class ContextEncoder:
    """The context fields in order, and the vocabulary of each that is a column of the log (the index of a value counts from 1)."""

    fields: list[str]
    vocabularies: dict[str, list[str]]

    @classmethod
    def fit(cls, fields: list[str], values: Callable[[str], pa.Array]) -> "ContextEncoder":
        """Fit on `values`, which gives the values of a column in the training part of the log; they may contain nulls."""
        return cls(list(fields), {name: sorted(_as_text(values(name)).drop_null().to_pylist()) for name in columns_of(fields)})

    @property
    def sizes(self) -> dict[str, int]:
        """The number of values of each field, the unknown one included."""
        return {name: 1 + (FROM_TIME[name][0] if name in FROM_TIME else len(self.vocabularies[name])) for name in self.fields}

    def encode(self, log: pa.Table, at: np.ndarray) -> np.ndarray:
        """The values of the rows of the log: int16 [rows, C] where they fit, which is nearly always, else int32."""
        kind = np.int16 if max(self.sizes.values(), default=0) < 2**15 else np.int32
        values = np.zeros((len(at), len(self.fields)), dtype=kind)
        for column, name in enumerate(self.fields):
            if name in FROM_TIME:
                values[:, column] = FROM_TIME[name][1](at) + 1
            elif name in log.column_names:
                values[:, column] = indices_of(_as_text(log[name]), pa.array(self.vocabularies[name], pa.string()), 1)
        return values

    def encode_requests(self, contexts: list[dict[str, Any]], at: np.ndarray) -> np.ndarray:
        """The values of requests. Each context maps fields to values; a missing field is unknown. `at` is int64 [B], UTC ms."""
        rows = [{name: str(value) for name, value in context.items()} for context in contexts]
        columns = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in self.vocabularies}
        return self.encode(pa.table(columns), at)


def _as_text(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return column.cast(pa.string())
