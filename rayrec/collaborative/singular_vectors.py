"""The first singular vectors of a sparse matrix."""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds


def singular_vectors(matrix_UI: sparse.csr_array, count: int, seed: int) -> np.ndarray:
    """The first `count` right singular vectors, or one fewer than the shorter side of the matrix: float32 [I, count].

    They are found by Lanczos' method (ARPACK) from a start that follows from the seed. Those of equal singular values are any basis
    of the same space.
    """
    start = np.random.default_rng(seed).standard_normal(min(matrix_UI.shape))
    _, _, found_SI = svds(matrix_UI.astype(np.float64), k=min(count, min(matrix_UI.shape) - 1), v0=start)
    return np.ascontiguousarray(found_SI[::-1].T, dtype=np.float32)  # ARPACK has the largest one last
