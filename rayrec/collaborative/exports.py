"""What recall needs of a fitted model: for each item those that go best with it, and the model's vectors.

`neighbours.arrow` has a row for each item index, 0 included, in order: `item` int32, `neighbours` int32 [K] (the best first, 0
where there are fewer) and `weights` float32 [K] (above 0; 0 where there is no neighbour). `factors.safetensors` has the arrays of
`Factors`: `clicked` and `candidate`, float32 [I, S]. A model without vectors leaves no such file.
"""

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from safetensors.numpy import save as save_arrays

from rayrec.collaborative.model import CollaborativeModel, Factors
from rayrec.data.encoding import write_arrow
from rayrec.data.top import rows_at_once, top_items
from rayrec.workspace.files import write_whole

NEIGHBOURS, FACTORS = "neighbours.arrow", "factors.safetensors"


def write_neighbours(fs: pafs.FileSystem, folder: str, model: CollaborativeModel, items: int, count: int) -> None:
    """Write the `count` items, or fewer, that go best with each of so many items (index 0 included)."""
    count = min(count, max(items - 2, 1))  # all but the item itself and "no item"
    neighbours_IK, weights_IK = np.zeros((items, count), np.int32), np.zeros((items, count), np.float32)
    for start in range(1, items, rows_at_once(items)):
        item_B = np.arange(start, min(start + rows_at_once(items), items), dtype=np.int32)
        scores_BI = model.similar(item_B).astype(np.float32)
        scores_BI[:, 0] = scores_BI[np.arange(len(item_B)), item_B] = -np.inf
        best_BK = top_items(scores_BI, count)
        best_scores_BK = np.take_along_axis(scores_BI, best_BK, axis=1)
        some_BK = best_scores_BK > 0
        neighbours_IK[item_B], weights_IK[item_B] = np.where(some_BK, best_BK, 0), np.where(some_BK, best_scores_BK, 0)
    columns = {"neighbours": neighbours_IK, "weights": weights_IK}
    lists = {name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), count) for name, values in columns.items()}
    write_arrow(fs, f"{folder}/{NEIGHBOURS}", pa.table({"item": pa.array(np.arange(items, dtype=np.int32)), **lists}))


def write_factors(fs: pafs.FileSystem, folder: str, factors: Factors) -> None:
    arrays = {"clicked": factors.clicked, "candidate": factors.candidate}
    write_whole(fs, f"{folder}/{FACTORS}", save_arrays({name: np.ascontiguousarray(each) for name, each in arrays.items()}))
