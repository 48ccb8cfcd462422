"""Normalises the vectors of a modality and reduces them by PCA, as the short-video CTR paper does (see docs/papers.md).

Both are fitted on moments, which can be computed for blocks and merged, so that one pass over the data is enough. Each dimension is
shifted and scaled; the covariance of the normalised vectors is therefore D^-1 C D^-1, where C is the covariance of the raw vectors
and D the diagonal matrix of the scales. All sums are float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.numpy
import scipy.linalg

from rayrec.tables import TableError

Normalisation = Literal["zscore", "minmax"]
ALIKE = "run `rayrec extract CONFIG --force` to make them alike"
Part = TypeVar("Part", "Moments", "Reduction")


@dataclass(frozen=True)
class Moments:
    """The moments of a set of vectors of D dimensions."""

    count: int
    mean: np.ndarray  # float64 [D]
    comoment: np.ndarray  # float64 [D, D]: the sum of the outer products of the centred vectors
    low: np.ndarray  # [D]
    high: np.ndarray  # [D]

    @classmethod
    def of(cls, vectors: np.ndarray) -> "Moments":
        """The moments of the rows of [N, D], N >= 1."""
        vectors = vectors.astype(np.float64)
        mean = vectors.mean(axis=0)
        centred = vectors - mean
        return cls(len(vectors), mean, centred.T @ centred, vectors.min(axis=0), vectors.max(axis=0))

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of both sets together (Chan, Golub & LeVeque, 1983). Raises `ValueError` when their sizes differ."""
        if len(self.mean) != len(other.mean):
            raise ValueError(f"some vectors hold {len(self.mean)} numbers, others {len(other.mean)}")
        count = self.count + other.count
        apart = other.mean - self.mean
        between = np.outer(apart, apart * (self.count * other.count / count))
        return Moments(
            count,
            self.mean + apart * (other.count / count),
            self.comoment + other.comoment + between,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )


@dataclass(frozen=True)
class Reduction:
    """The map from raw to reduced vectors of one modality: (x - shift) * scale, then a projection onto the components, if any."""

    count: int  # the number of vectors that it was fitted on
    shift: np.ndarray  # float64 [D]
    scale: np.ndarray  # float64 [D]; 0 for a dimension that was constant
    explained: np.ndarray | None = None  # [size], the share of each component in the variance of the normalised vectors
    components: np.ndarray | None = None  # float64 [size, D], orthonormal rows, the largest variance first; None without PCA

    @classmethod
    def fit(cls, moments: Moments, normalise: Normalisation, size: int | None) -> "Reduction":
        """Fit it to moments: with PCA to `size` numbers, or fewer if the data spans fewer; without PCA when `size` is None."""
        varies = moments.high > moments.low
        spread = np.sqrt(moments.comoment.diagonal() / moments.count) if normalise == "zscore" else moments.high - moments.low
        scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)
        if size is None:
            shift = moments.mean if normalise == "zscore" else moments.low
            return cls(moments.count, shift, scale)
        covariance = moments.comoment * scale * scale[:, None] / moments.count
        variances, components = principal(covariance, min(size, moments.count - 1))
        total = covariance.trace()
        return cls(moments.count, moments.mean, scale, variances / total if total else variances, components)

    @property
    def raw_size(self) -> int:
        return len(self.shift)

    @property
    def size(self) -> int:
        return self.raw_size if self.components is None else len(self.components)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """[N, raw_size] -> float32 [N, size]."""
        normalised = (vectors - self.shift) * self.scale
        return (normalised if self.components is None else normalised @ self.components.T).astype(np.float32)


def principal(covariance: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The `size` largest eigenvalues above rounding, and their eigenvectors as rows, whose largest coordinate is positive."""
    dimensions = len(covariance)
    size = min(size, dimensions)
    if size <= 0:
        return np.zeros(0), np.zeros((0, dimensions))
    variances, vectors = scipy.linalg.eigh(covariance, subset_by_index=(dimensions - size, dimensions - 1))
    variances, rows = variances[::-1], vectors.T[::-1]
    real = variances > dimensions * np.finfo(np.float64).eps * max(variances[0], 0)
    variances, rows = variances[real], rows[real]
    largest = np.abs(rows).argmax(axis=1)
    return variances, rows * np.sign(rows[np.arange(len(rows)), largest])[:, None]


# --- columns of lists ------------------------------------------------------------------------------------------------------------


def matrix(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """The vectors of a list column, without its nulls, as float32 [N, D]. Raises `TableError` when they differ in length."""
    present = column.combine_chunks().drop_null()
    lengths = pc.unique(pc.list_value_length(present)).to_pylist()
    if len(lengths) > 1:
        sizes = " and ".join(map(str, sorted(lengths)))
        raise TableError(f"features: the vectors of {name!r} hold {sizes} numbers; {ALIKE}")
    return pc.list_flatten(present).to_numpy().reshape(len(present), *(lengths or [0]))


def reduced(column: pa.ChunkedArray, reduction: Reduction, name: str) -> pa.Array:
    """The column with each vector reduced. Nulls stay null."""
    vectors = matrix(column, name)
    values = reduction(vectors) if len(vectors) else np.empty((0, reduction.size), np.float32)
    ends = np.cumsum(column.is_valid().to_numpy().astype(np.int32), dtype=np.int32) * reduction.size
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()), mask=column.is_null().combine_chunks())


def moments_of(table: pa.Table, names: list[str]) -> dict[str, Moments]:
    """The moments of each of these columns that has any vector."""
    found = {name: matrix(table[name], name) for name in names if table[name].null_count < table.num_rows}
    return {name: Moments.of(vectors) for name, vectors in found.items()}


def merged(first: dict[str, Moments], second: dict[str, Moments]) -> dict[str, Moments]:
    """The moments of two sets together, by modality. Raises `TableError` when vectors of one modality differ in length."""
    try:
        return {name: reduce(Moments.__add__, [part[name] for part in (first, second) if name in part]) for name in first | second}
    except ValueError as error:
        raise TableError(f"features: {error}; {ALIKE}") from None


# --- bytes -----------------------------------------------------------------------------------------------------------------------


def pack(parts: Mapping[str, Moments | Reduction]) -> bytes:
    """Moments or reductions by modality, as safetensors."""
    arrays = {
        f"{name}.{field.name}": np.ascontiguousarray(value)
        for name, part in parts.items()
        for field in fields(part)
        if (value := getattr(part, field.name)) is not None
    }
    return safetensors.numpy.save(arrays)


def unpack(kind: type[Part], data: bytes) -> dict[str, Part]:
    """The parts of this kind from the bytes that `pack` made."""
    values: dict[str, dict[str, Any]] = {}
    for key, array in safetensors.numpy.load(data).items():
        name, _, field = key.partition(".")
        values.setdefault(name, {})[field] = int(array[0]) if field == "count" else array
    return {name: kind(**parts) for name, parts in values.items()}
