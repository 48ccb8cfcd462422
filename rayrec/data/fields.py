"""What a ranker knows of users and items: their columns as integers and numbers, one row each, ready to sit on a device.

`FieldEncoder.fit` learns vocabularies and scales from what training saw; `encode` then turns any table into a `FieldTable`. The
encoder is saved with the model, so that training and serving can't differ. Row 0 of a table is "unknown", and so is value 0 of
every vocabulary: an unseen author, tag or video id needs no special case.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rayrec.errors import RayrecError

MAX_VALUES = 16  # of a multi-valued field kept for one row


class DataError(RayrecError):
    """What no ranker can be trained on; the message names the column or the setting and what to change."""


@dataclass
class FieldTable:
    """n rows and, in front, row 0 for "unknown"; all tensors share that first dimension, n + 1."""

    ids: list[str]
    categorical: dict[str, torch.Tensor] = field(default_factory=dict)  # int64 [n + 1]
    multivalued: dict[str, torch.Tensor] = field(default_factory=dict)  # int64 [n + 1, values], 0-padded
    numeric: dict[str, torch.Tensor] = field(default_factory=dict)  # float32 [n + 1], standardised
    vectors: dict[str, torch.Tensor] = field(default_factory=dict)  # float32 [n + 1, size], standardised; zeros where missing
    sizes: dict[str, int] = field(default_factory=dict)  # of the vocabularies, the unknown value included

    def __post_init__(self) -> None:
        self.index = {name: number for number, name in enumerate(self.ids) if number}

    def rows_of(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """The row of each id, 0 where it is unknown: int64 [ids]."""
        return indices_of(ids, pa.array(self.ids, pa.string())).astype(np.int64)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors, each under `kind.field`, in an order that does not depend on how the table came to be."""
        kinds = ("categorical", "multivalued", "numeric", "vectors")
        return {f"{kind}.{name}": getattr(self, kind)[name] for kind in kinds for name in sorted(getattr(self, kind))}

    @classmethod
    def from_tensors(cls, ids: list[str], tensors: dict[str, torch.Tensor], sizes: dict[str, int]) -> "FieldTable":
        table = cls(ids, sizes=sizes)
        for key, tensor in tensors.items():
            kind, name = key.split(".", 1)
            getattr(table, kind)[name] = tensor
        return table


@dataclass(frozen=True)
class Tables:
    """What a model is built for: the users, the items, and the number of values of each context field, in the batch's order."""

    users: FieldTable
    items: FieldTable
    context: dict[str, int]


@dataclass
class FieldEncoder:
    """Learned from training rows: vocabularies (value -> number from 1) and scales (mean, deviation)."""

    id_column: str
    vocabularies: dict[str, list[str]] = field(default_factory=dict)
    multivalued: list[str] = field(default_factory=list)
    scales: dict[str, tuple[float, float]] = field(default_factory=dict)
    vector_scales: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)

    @classmethod
    def fit(cls, table: pa.Table, id_column: str, columns: list[str], seen: np.ndarray) -> "FieldEncoder":
        """Learn from the rows that `seen` (a mask) marks. A column's Arrow type says what kind of field it is."""
        encoder = cls(id_column)
        rows = table.filter(pa.array(seen))
        for name in columns:
            kind, column = table.schema.field(name).type, rows[name].drop_null()
            if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
                if len(column):
                    values = _matrix(name, column)
                    encoder.vector_scales[name] = (values.mean(0).tolist(), (values.std(0) + 1e-6).tolist())
            elif pa.types.is_list(kind):
                encoder.multivalued.append(name)
                encoder.vocabularies[name] = _frequent(pc.list_flatten(column).cast(pa.string()))
            elif pa.types.is_floating(kind) or pa.types.is_integer(kind):
                values = column.to_numpy().astype(np.float64)
                encoder.scales[name] = (float(values.mean()), float(values.std() + 1e-6)) if len(values) else (0.0, 1.0)
            else:
                encoder.vocabularies[name] = _frequent(column.cast(pa.string()))
        return encoder

    def encode(self, table: pa.Table) -> FieldTable:
        """The table's rows as a `FieldTable`, in the table's order, behind row 0."""
        encoded = FieldTable(["", *table[self.id_column].to_pylist()], sizes=self.sizes())
        for name, words in self.vocabularies.items():
            values = pa.array(words, pa.string())
            if name in self.multivalued:
                encoded.multivalued[name] = _pad_lists(table[name], values)
            else:
                encoded.categorical[name] = _behind_zero(indices_of(table[name].cast(pa.string()), values, 1).astype(np.int64))
        for name, (mean, deviation) in self.scales.items():
            numbers = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
            encoded.numeric[name] = _behind_zero(np.nan_to_num((numbers - mean) / deviation).astype(np.float32))
        for name, (means, deviations) in self.vector_scales.items():
            rows = np.zeros((table.num_rows, len(means)), dtype=np.float32)
            present = np.flatnonzero(table[name].is_valid().to_numpy())
            if len(present):
                rows[present] = (_matrix(name, table[name].drop_null()) - means) / deviations
            encoded.vectors[name] = _behind_zero(rows)
        return encoded

    def sizes(self) -> dict[str, int]:
        """The number of values of each vocabulary, the unknown one included."""
        return {name: len(words) + 1 for name, words in self.vocabularies.items()}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def indices_of(values: pa.Array | pa.ChunkedArray, known: pa.Array, first: int = 0) -> np.ndarray:
    """The place of each value among the known ones, counted from `first`; 0 where it is not there: int32 [values]."""
    found = pc.index_in(values, value_set=known).fill_null(-first).to_numpy(zero_copy_only=False)
    return found + np.int32(first)  # an array of its own: Arrow's memory is read-only


def refuse_not_finite(table: pa.Table, id_column: str, columns: list[str]) -> None:
    """Raise a `DataError` for the first of the numbers and vectors of these columns that is NaN or infinite."""
    for name in columns:
        column = table[name].combine_chunks()
        vectors = pa.types.is_list(column.type)
        numbers = pc.list_flatten(column) if vectors else column
        if not pa.types.is_floating(numbers.type):
            continue
        broken = pc.invert(pc.is_finite(numbers)).fill_null(False).to_numpy(zero_copy_only=False).nonzero()[0]
        if len(broken):
            row = pc.list_parent_indices(column)[int(broken[0])].as_py() if vectors else int(broken[0])
            raise DataError(
                f"column {name!r} of {id_column} {table[id_column][row].as_py()!r} holds {numbers[int(broken[0])].as_py()}: "
                "a ranker takes finite numbers only; leave the value out (null) where it is not known"
            )


def _frequent(values: pa.ChunkedArray | pa.Array) -> list[str]:
    """Distinct values, the most frequent first, ties by name."""
    counts = values.drop_null().value_counts()
    order = pc.sort_indices(
        pa.table({"value": counts.field("values"), "count": counts.field("counts")}),
        sort_keys=[("count", "descending"), ("value", "ascending")],
    )
    return counts.field("values").take(order).to_pylist()


def _matrix(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Vectors, none of them null, as float [rows, size]. Raises `DataError` when they are not of one size."""
    sizes = pc.min_max(pc.list_value_length(column)).as_py()
    if sizes["min"] != sizes["max"]:
        raise DataError(f"column {name!r} holds vectors of {sizes['min']} and of {sizes['max']} numbers: they must be of one size")
    return pc.list_flatten(column).to_numpy().reshape(len(column), -1)


def _behind_zero(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([np.zeros((1, *rows.shape[1:]), rows.dtype), rows]))


def _pad_lists(column: pa.ChunkedArray, values: pa.Array) -> torch.Tensor:
    """Lists of words as numbers [n + 1, most values], unknown words left out, 0-padded."""
    column = column.combine_chunks()
    numbers = pc.index_in(pc.list_flatten(column).cast(pa.string()), value_set=values)
    owners = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
    known = numbers.is_valid().to_numpy(zero_copy_only=False)
    owners, found = owners[known], numbers.drop_null().to_numpy(zero_copy_only=False).astype(np.int64) + 1
    starts = np.searchsorted(owners, np.arange(len(column)))
    places = np.arange(len(owners)) - starts[owners]
    width = int(min(MAX_VALUES, places.max(initial=0) + 1))
    padded = np.zeros((len(column), width), dtype=np.int64)
    kept = places < width
    padded[owners[kept], places[kept]] = found[kept]
    return _behind_zero(padded)
