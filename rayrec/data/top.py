"""The items with the highest scores, of many rows at once."""

import numpy as np

NUMBERS_AT_ONCE = 16_000_000  # of a matrix with a score for every item, of which a few copies are made


def rows_at_once(items: int) -> int:
    """How many rows of scores for so many items are worked on at a time."""
    return max(1, NUMBERS_AT_ONCE // items)


def top_items(scores_BI: np.ndarray, k: int) -> np.ndarray:
    """The k items with the highest scores of each row, the best first; of equals the one with the lower index: int64 [B, k].

    `k` is at most I, and no score is NaN.
    """
    rows, items = scores_BI.shape
    threshold_B1 = np.partition(scores_BI, items - k, axis=1)[:, items - k, None]  # the k-th highest
    above_BI, equal_BI = scores_BI > threshold_B1, scores_BI == threshold_B1
    room_B1 = k - above_BI.sum(axis=1, keepdims=True)
    chosen_BI = above_BI | (equal_BI & (np.cumsum(equal_BI, axis=1) <= room_B1))
    item_Bk = np.nonzero(chosen_BI)[1].reshape(rows, k)  # in the order of their indices, which the stable sort keeps among equals
    order_Bk = np.argsort(-np.take_along_axis(scores_BI, item_Bk, axis=1), axis=1, kind="stable")
    return np.take_along_axis(item_Bk, order_Bk, axis=1)
