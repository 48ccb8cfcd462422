"""Models that hold a number for each pair of items: how many items that allows, and Gram matrices of what is known of the items."""

import numpy as np

from rayrec.data.errors import DataError

MAX_ITEMS = 30_000  # above, the matrix alone takes 3.6 GB, and its inverse minutes


def refuse_many_items(model: str, items: int) -> None:
    """Raises `DataError` where a matrix of items by items would not fit."""
    if items > MAX_ITEMS:
        raise DataError(
            f"collaborative.model: {model} holds a number for each pair of items, {4 * items**2 / 2**30:,.0f} GB for {items:,} "
            f"items, and is for at most {MAX_ITEMS:,}; take gf_cf, item_cf or pure_svd"
        )


def content_gram(vectors_ID: np.ndarray) -> np.ndarray:
    """How alike the vectors of any two items are: the cosine after centring, 0 with an item that has none. float32 [I, I]."""
    present_I = np.any(vectors_ID != 0, axis=1)
    centred_ID = np.where(present_I[:, None], vectors_ID - vectors_ID[present_I].mean(axis=0), 0)
    length_I1 = np.linalg.norm(centred_ID, axis=1, keepdims=True)
    unit_ID = (centred_ID / np.where(length_I1 > 0, length_I1, 1)).astype(np.float32)
    gram_II: np.ndarray = unit_ID @ unit_ID.T
    return gram_II
