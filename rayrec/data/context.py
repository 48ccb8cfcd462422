"""The context of a request (device, network, hour, ...) as integers: [B, C] values, 0 for one that training never saw."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.data.fields import DataError, indices_of
from rayrec.errors import did_you_mean

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
# Context fields that come from the time of the request (UTC): name -> (how many values, int64 ms -> value from 0).
FROM_TIME = {
    "hour": (24, lambda at: at // HOUR_MS % 24),
    "weekday": (7, lambda at: (at // DAY_MS + 3) % 7),  # 1 January 1970 was a Thursday; 0 is Monday
}


def columns_of(fields: list[str]) -> list[str]:
    """The fields that are columns of the log."""
    return [name for name in fields if name not in FROM_TIME]


def refuse_unknown_context(fields: list[str], log_columns: list[str]) -> None:
    """Raise a `DataError` for a field that is neither a column of the log nor one of those that come from the time."""
    for name in columns_of(fields):
        if name not in log_columns:
            near = did_you_mean(name, [*log_columns, *FROM_TIME])
            raise DataError(f"ranker.context_fields: the log has no column {name!r}{near}")


@dataclass(frozen=True)
class ContextEncoder:
    """The context fields in order, and the vocabulary of those that are columns of the log (value -> number from 1)."""

    fields: list[str]
    vocabularies: dict[str, list[str]]

    @classmethod
    def fit(cls, fields: list[str], values: Callable[[str], pa.Array]) -> "ContextEncoder":
        """From the values of a column in the training part of the log (null among them or not)."""
        return cls(list(fields), {name: sorted(_texts(values(name)).drop_null().to_pylist()) for name in columns_of(fields)})

    @property
    def sizes(self) -> dict[str, int]:
        """The number of values of each field, the unknown one included."""
        return {name: 1 + (FROM_TIME[name][0] if name in FROM_TIME else len(self.vocabularies[name])) for name in self.fields}

    def encode(self, log: pa.Table, at: np.ndarray) -> np.ndarray:
        """The values of the log's rows: int16 [rows, C] where they fit, as they nearly always do, else int32."""
        kind = np.int16 if max(self.sizes.values(), default=0) < 2**15 else np.int32
        values = np.zeros((len(at), len(self.fields)), dtype=kind)
        for place, name in enumerate(self.fields):
            if name in FROM_TIME:
                values[:, place] = FROM_TIME[name][1](at) + 1
            elif name in log.column_names:
                values[:, place] = indices_of(_texts(log[name]), pa.array(self.vocabularies[name], pa.string()), 1)
        return values

    def encode_requests(self, contexts: list[dict[str, Any]], at: np.ndarray) -> np.ndarray:
        """The same for requests, each with a mapping field -> value; what it lacks is unknown. `at` is int64 [B], UTC ms."""
        rows = [{name: str(value) for name, value in context.items()} for context in contexts]
        columns = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in self.vocabularies}
        return self.encode(pa.table(columns), at)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _texts(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return column.cast(pa.string())
