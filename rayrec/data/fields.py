"""What a ranker knows of users and items: their columns as integers and numbers, one row for each, ready for a device.

`FieldEncoder.fit` learns vocabularies and scales from what training saw; `encode` then turns any table into a `FieldTable`. The
encoder is saved with the model, so that training and serving can't differ. Row 0 of a table is "unknown", and so is value 0 of
every vocabulary: an unseen author, tag or video id needs no special case.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rayrec.data.errors import DataError
from rayrec.data.maps import MapEncoder
from rayrec.data.popularity import FadingCounts
from rayrec.data.vocabulary import appended, indices_of, value_indices, value_texts
from rayrec.tables import MAPS, MAPS_SHAPE, TEXT

MAX_VALUES = 16  # of a multi-valued field that are kept for one row


@dataclass
class FieldTable:
    """n rows and, in front, row 0 for "unknown"; all tensors share that first dimension, n + 1."""

    ids: list[str]
    categorical: dict[str, torch.Tensor] = field(default_factory=dict)  # int64 [n + 1]
    multivalued: dict[str, torch.Tensor] = field(default_factory=dict)  # int64 [n + 1, values], 0-padded
    numeric: dict[str, torch.Tensor] = field(default_factory=dict)  # float32 [n + 1], standardised
    vectors: dict[str, torch.Tensor] = field(default_factory=dict)  # float32 [n + 1, size], centred, of unit variance; 0 if missing
    maps: dict[str, torch.Tensor] = field(default_factory=dict)  # "cover": float16 [n + 1, stages, channels, places]; 0 if missing
    sizes: dict[str, int] = field(default_factory=dict)  # of the vocabularies, the unknown value included
    kernels: tuple[int, ...] = ()  # how wide those of the image network are in each stage of the maps

    def __post_init__(self) -> None:
        self.index = {name: row for row, name in enumerate(self.ids) if row}

    def rows_of(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """The row of each id, 0 where it is unknown: int64 [ids]."""
        return indices_of(ids, pa.array(self.ids, TEXT)).astype(np.int64)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors, each under `kind.field`, in an order that does not depend on how the table was made."""
        kinds = ("categorical", "multivalued", "numeric", "vectors", "maps")
        return {f"{kind}.{name}": getattr(self, kind)[name] for kind in kinds for name in sorted(getattr(self, kind))}

    @classmethod
    def from_tensors(cls, ids: list[str], tensors: dict[str, torch.Tensor], encoder: "FieldEncoder") -> "FieldTable":
        """The table of which `tensors` gave these tensors, and which the encoder had made."""
        table = encoder.table(ids)
        for key, tensor in tensors.items():
            kind, name = key.split(".", 1)
            getattr(table, kind)[name] = tensor
        return table


@dataclass(frozen=True)
class Tables:
    """What a model is built for: users, items, and the number of values of each context field, in the order of `Batch.context`.

    `popularity` is there if the settings ask for it.
    """

    users: FieldTable
    items: FieldTable
    context: dict[str, int]
    popularity: FadingCounts | None = None


@dataclass
class FieldEncoder:
    """What is learned from training rows: vocabularies (the index of a value counts from 1) and scales (mean, deviation).

    A vector has a mean for each dimension, but one deviation for all of them.
    """

    id_column: str
    vocabularies: dict[str, list[str]] = field(default_factory=dict)
    multivalued: list[str] = field(default_factory=list)
    scales: dict[str, tuple[float, float]] = field(default_factory=dict)
    vector_scales: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    maps: MapEncoder | None = None  # of the feature maps, where the rows have been joined with them

    @classmethod
    def fit(cls, table: pa.Table, id_column: str, columns: list[str], seen: np.ndarray) -> "FieldEncoder":
        """Learn from the rows that the mask `seen` marks. The Arrow type of a column says what kind of field it is."""
        encoder = cls(id_column)
        rows = table.filter(pa.array(seen))
        for name in columns:
            kind, column = table.schema.field(name).type, rows[name].drop_null()
            if _is_list(kind) and pa.types.is_floating(kind.value_type):
                if len(column):
                    # One scale for all dimensions: `reduction.normalise` has chosen how large they are beside one another.
                    values = vector_matrix(name, column)
                    deviation = float(np.sqrt(values.var(0).mean()) + 1e-6)
                    encoder.vector_scales[name] = (values.mean(0).tolist(), [deviation] * values.shape[1])
            elif _is_list(kind):
                encoder.multivalued.append(name)
                encoder.vocabularies[name] = _frequent(value_texts(name, pc.list_flatten(column)))
            elif pa.types.is_floating(kind) or pa.types.is_integer(kind):
                values = column.to_numpy().astype(np.float64)
                encoder.scales[name] = (float(values.mean()), float(values.std() + 1e-6)) if len(values) else (0.0, 1.0)
            else:
                encoder.vocabularies[name] = _frequent(value_texts(name, column))
        if MAPS in table.column_names and MAPS_SHAPE in table.column_names:
            encoder.maps = MapEncoder.fit(table, seen)
        return encoder

    def encode(self, table: pa.Table) -> FieldTable:
        """The rows of the table as a `FieldTable`, in the same order, behind row 0."""
        encoded = self.table(["", *table[self.id_column].to_pylist()])
        for name, words in self.vocabularies.items():
            values = pa.array(words, TEXT)
            if name in self.multivalued:
                encoded.multivalued[name] = _pad_lists(name, table[name], values)
            else:
                encoded.categorical[name] = _behind_zero(value_indices(name, table[name], values).astype(np.int64))
        for name, (mean, deviation) in self.scales.items():
            raw = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
            encoded.numeric[name] = _behind_zero(np.nan_to_num((raw - mean) / deviation).astype(np.float32))
        for name, (means, deviations) in self.vector_scales.items():
            rows = np.zeros((table.num_rows, len(means)), dtype=np.float32)
            present = np.flatnonzero(table[name].is_valid().to_numpy())
            if len(present):
                rows[present] = (vector_matrix(name, table[name].drop_null()) - means) / deviations
            encoded.vectors[name] = _behind_zero(rows)
        if self.maps is not None:
            encoded.maps["cover"] = _behind_zero(self.maps.encode(table))
        return encoded

    def grown(self, newer: "FieldEncoder") -> "FieldEncoder":
        """This encoder with the values that only a newer one has, behind its own: each value keeps its index, and scales stay.

        Raises `DataError` if the two read different columns.
        """
        for kind in ("vocabularies", "scales", "vector_scales"):
            if differing := sorted(getattr(self, kind).keys() ^ getattr(newer, kind).keys()):
                raise DataError(
                    f"the ranker was trained with other columns beside {self.id_column!r}: {differing[0]!r} is new, gone or of "
                    "another type now; run `rayrec train CONFIG training.from=null` to train a new one"
                )
        words = {name: appended(own, newer.vocabularies[name]) for name, own in self.vocabularies.items()}
        return replace(self, vocabularies=words)

    def table(self, ids: list[str]) -> FieldTable:
        """A table with these ids and without fields."""
        return FieldTable(ids, sizes=self.sizes(), kernels=self.maps.shape.kernels if self.maps else ())

    def sizes(self) -> dict[str, int]:
        """The number of values of each vocabulary, the unknown one included."""
        return {name: len(words) + 1 for name, words in self.vocabularies.items()}


def refuse_not_finite(table: pa.Table, id_column: str, columns: list[str]) -> None:
    """Raise a `DataError` for the first number in these columns, also inside a vector, that is NaN or infinite."""
    for name in columns:
        column = table[name].combine_chunks()
        vectors = _is_list(column.type)
        values = pc.list_flatten(column) if vectors else column
        if not pa.types.is_floating(values.type):
            continue
        broken = pc.invert(pc.is_finite(values)).fill_null(False).to_numpy(zero_copy_only=False).nonzero()[0]
        if len(broken):
            row = pc.list_parent_indices(column)[int(broken[0])].as_py() if vectors else int(broken[0])
            raise DataError(
                f"column {name!r} of {id_column} {table[id_column][row].as_py()!r} holds {values[int(broken[0])].as_py()}; "
                "a ranker takes finite numbers only, so replace the value, or make it null where it is unknown"
            )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _frequent(values: pa.ChunkedArray | pa.Array) -> list[str]:
    """The distinct values, the most frequent first, ties in alphabetical order."""
    counts = values.drop_null().value_counts()
    order = pc.sort_indices(
        pa.table({"value": counts.field("values"), "count": counts.field("counts")}),
        sort_keys=[("count", "descending"), ("value", "ascending")],
    )
    return counts.field("values").take(order).to_pylist()


def vector_matrix(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Vectors, none of which is null, as float [rows, size]. Raises `DataError` when they differ in size."""
    sizes = pc.min_max(pc.list_value_length(column)).as_py()
    if sizes["min"] != sizes["max"]:
        raise DataError(
            f"column {name!r} holds vectors of {sizes['min']} and of {sizes['max']} numbers; make all of them the same size"
        )
    return pc.list_flatten(column).to_numpy().reshape(len(column), -1)


def _behind_zero(rows: np.ndarray) -> torch.Tensor:
    """The rows with a row of zeros, "unknown", in front."""
    return torch.from_numpy(np.concatenate([np.zeros((1, *rows.shape[1:]), rows.dtype), rows]))


def _pad_lists(name: str, column: pa.ChunkedArray, vocabulary: pa.Array) -> torch.Tensor:
    """Lists of words as indices [n + 1, values of the longest row], unknown words left out, 0-padded."""
    column = column.combine_chunks()
    found = pc.index_in(value_texts(name, pc.list_flatten(column)), value_set=vocabulary)
    known = found.is_valid().to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)[known]
    indices = found.drop_null().to_numpy(zero_copy_only=False).astype(np.int64) + 1
    starts = np.searchsorted(rows, np.arange(len(column)))
    positions = np.arange(len(rows)) - starts[rows]
    width = int(min(MAX_VALUES, positions.max(initial=0) + 1))
    padded = np.zeros((len(column), width), dtype=np.int64)
    kept = positions < width
    padded[rows[kept], positions[kept]] = indices[kept]
    return _behind_zero(padded)
