"""Operations on sparse matrices: similarities of rows, the largest entries of each row, and how a matrix is saved."""

from typing import Literal

import numpy as np
from scipy import sparse

Similarity = Literal["cosine", "jaccard"]


def similarities(first: sparse.csr_array, second: sparse.csr_array, similarity: Similarity) -> sparse.csr_array:
    """How alike two rows of zeros and ones are: float32 [A, B], without entries for rows that have nothing in common.

    With a, b the ones of two rows, and c those in common: cosine c / sqrt(a b), Jaccard c / (a + b - c).
    """
    common = (first @ second.T).tocoo()
    a, b = np.diff(first.indptr)[common.row], np.diff(second.indptr)[common.col]
    whole = np.sqrt(a * b) if similarity == "cosine" else a + b - common.data
    return sparse.coo_array(((common.data / whole).astype(np.float32), common.coords), shape=common.shape).tocsr()


def largest_of_rows(matrix: sparse.csr_array, k: int) -> sparse.csr_array:
    """The k largest entries of each row, or all where there are fewer; of equals the one in the first column."""
    sizes = np.diff(matrix.indptr)
    row = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((matrix.indices, -matrix.data, row))
    place = np.arange(len(row)) - np.repeat(matrix.indptr[:-1], sizes)  # within the row
    kept = order[place < k]
    return sparse.coo_array((matrix.data[kept], (row[kept], matrix.indices[kept])), shape=matrix.shape).tocsr()


def to_arrays(matrix: sparse.csr_array) -> dict[str, np.ndarray]:
    """A matrix for `CollaborativeModel.arrays`."""
    shape = np.array(matrix.shape, np.int64)
    return {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr, "shape": shape}


def from_arrays(arrays: dict[str, np.ndarray]) -> sparse.csr_array:
    """The matrix that `to_arrays` gave. Raises `ValueError` for arrays that are none."""
    found = sparse.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=tuple(arrays["shape"].tolist()))
    found.check_format()
    return found
