"""The first singular vectors of a sparse matrix."""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

ZERO = 1e-12  # an eigenvalue of X^T X that is smaller, compared with the largest one, is a rounded 0


def singular_vectors(matrix_UI: sparse.csr_array, count: int, seed: int) -> np.ndarray:
    """The first `count` right singular vectors, or one fewer than the shorter side of the matrix: float32 [I, count].

    They are eigenvectors of X^T X, or of X X^T if that is smaller, and found by Lanczos' method (ARPACK). Its start follows from
    the seed, and so do the further starts that it needs where the rank is low. Those of equal singular values are any basis of the
    same space. A vector whose singular value is 0 could be any that is orthogonal to all rows, and is 0 instead.
    """
    generator = np.random.default_rng(seed)
    matrix = matrix_UI.astype(np.float64)
    is_wide = matrix.shape[0] < matrix.shape[1]
    if is_wide:
        matrix = matrix.T.tocsr()
    size = matrix.shape[1]
    transposed = matrix.T.tocsr()
    product = LinearOperator((size, size), lambda vector: transposed @ (matrix @ vector), dtype=np.float64)
    value_S, found = eigsh(product, min(count, size - 1), v0=generator.standard_normal(size), rng=generator)
    value_S, found = value_S[::-1], found[:, ::-1]  # ARPACK has the largest one last
    known_S = value_S > ZERO * value_S[0]
    if is_wide:
        found = matrix @ found / np.sqrt(np.where(known_S, value_S, 1))
    return np.ascontiguousarray(np.where(known_S, found, 0), dtype=np.float32)
