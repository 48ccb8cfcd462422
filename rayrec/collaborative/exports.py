"""The table `collaborative_items`, which recall reads: what goes best with each item, and the vectors of the model."""

import numpy as np
import pyarrow as pa

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import CollaborativeModel
from rayrec.data.top import rows_at_once, top_items
from rayrec.tables import IDS, VECTOR, validate

TABLE = "collaborative_items"


def item_table(model: CollaborativeModel, feedback: Feedback, video_ids: pa.Array, count: int) -> pa.Table:
    """A row for each item from 1 on, with at most `count` neighbours, the best first, and vectors if the model has some."""
    neighbours_IK, weights_IK = neighbours(model, feedback.items, count)
    factors, known_I = model.factors(), feedback.likes.sum(axis=0) > 0
    columns = {"neighbours": _lists(neighbours_IK[1:], IDS), "weights": _lists(weights_IK[1:], VECTOR)}
    if factors is not None:
        columns |= {"clicked": _lists(factors.clicked[1:], VECTOR), "candidate": _lists(factors.candidate[1:], VECTOR)}
    return validate(TABLE, pa.table({"video_id": video_ids, "known": (known_I | bool(model.modalities))[1:], **columns}))


def neighbours(model: CollaborativeModel, items: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` items, or fewer, that go best with each of so many items, index 0 included, and their scores.

    int32 and float32 [items, K], the best first. Only scores above 0 count; item and score are 0 where there are fewer.
    """
    count = max(min(count, items - 2), 1)  # all but the item itself and "no item"
    neighbours_IK, weights_IK = np.zeros((items, count), np.int32), np.zeros((items, count), np.float32)
    for start in range(1, items, rows_at_once(items)):
        item_B = np.arange(start, min(start + rows_at_once(items), items), dtype=np.int32)
        scores_BI = model.similar(item_B).astype(np.float32)
        scores_BI[:, 0] = scores_BI[np.arange(len(item_B)), item_B] = -np.inf
        best_BK = top_items(scores_BI, count)
        best_scores_BK = np.take_along_axis(scores_BI, best_BK, axis=1)
        some_BK = best_scores_BK > 0
        neighbours_IK[item_B], weights_IK[item_B] = np.where(some_BK, best_BK, 0), np.where(some_BK, best_scores_BK, 0)
    return neighbours_IK, weights_IK


def _lists(matrix: np.ndarray, kind: pa.ListType) -> pa.Array:
    """A row of the matrix in each row."""
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * np.int32(matrix.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(np.ravel(matrix), kind.value_type))
