"""The feature maps of covers as rankers read them: centred, scaled, and as one tensor for each video instead of a flat vector."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.errors import DataError
from rayrec.tables import MAPS, MAPS_SHAPE, MapShape

BLOCK_ROWS = 4096  # that are encoded at a time, so that no second copy of all maps is in memory
EXTRACT = "run `rayrec extract CONFIG --force` and `rayrec reduce CONFIG` to make them alike"


@dataclass
class MapEncoder:
    """What training saw: the shape of the maps, their means, and one deviation for all numbers."""

    shape: MapShape
    means: list[float]
    deviation: float

    @classmethod
    def fit(cls, table: pa.Table, seen: np.ndarray) -> "MapEncoder | None":
        """Learn from the rows that the mask `seen` marks; None if none of them has maps. Raises `DataError` for mixed shapes."""
        shape = shape_of(table)
        column = table[MAPS].filter(pa.array(seen)).drop_null()
        if shape is None or not len(column):
            return None
        values = _matrix(column, shape)
        return cls(shape, values.mean(0).tolist(), float(np.sqrt(values.var(0).mean()) + 1e-6))

    def encode(self, table: pa.Table) -> np.ndarray:
        """The maps of each row, float16 [rows, stages, channels, side * side]: zeros, which are the mean, for a row without any.

        Raises `DataError` for maps of another shape than training had.
        """
        shape = shape_of(table) if MAPS_SHAPE in table.column_names else self.shape
        if shape not in (None, self.shape):
            raise DataError(f"the ranker was trained with maps of the shape {self.shape}, which is {shape} now; train it again")
        rows = np.zeros((table.num_rows, *self.shape.dimensions), np.float16)
        present, found = np.flatnonzero(table[MAPS].is_valid().to_numpy()), table[MAPS].drop_null()
        means = np.array(self.means, np.float32)
        for start in range(0, len(present), BLOCK_ROWS):
            values = (_matrix(found.slice(start, BLOCK_ROWS), self.shape) - means) / np.float32(self.deviation)
            rows[present[start : start + BLOCK_ROWS]] = values.reshape(-1, *self.shape.dimensions)
        return rows


def shape_of(table: pa.Table) -> MapShape | None:
    """The shape that all maps of a table of items have; None if there are no maps. Raises `DataError` for mixed shapes."""
    shapes = pc.unique(table[MAPS_SHAPE].drop_null()).to_pylist()
    if len(shapes) > 1:
        raise DataError(f"the covers' maps have the shapes {' and '.join(sorted(shapes))}; {EXTRACT}")
    return MapShape.from_json(shapes[0]) if shapes else None


def _matrix(column: pa.ChunkedArray, shape: MapShape) -> np.ndarray:
    """Maps, none of which is null, as float32 [rows, size]."""
    values = pc.list_flatten(column).to_numpy()
    if len(values) != len(column) * shape.size:
        raise DataError(f"some covers have maps of other than {shape.size} numbers, of which the shape is {shape}; {EXTRACT}")
    return values.reshape(len(column), shape.size)
