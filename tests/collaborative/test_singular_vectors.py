"""The singular vectors of sparse matrices against those of dense ones, and that they are the same every time."""

import numpy as np
import pytest
from scipy import sparse

from rayrec.collaborative.singular_vectors import singular_vectors

SHAPES = [(90, 30), (30, 90), (40, 40)]


def matrix(shape: tuple[int, int], rank: int) -> np.ndarray:
    """A matrix whose rows are a few different ones."""
    generator = np.random.default_rng(0)
    rows = generator.random((rank, shape[1])) < 0.4
    return rows[np.arange(shape[0]) % rank].astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_they_are_those_of_the_dense_matrix(shape: tuple[int, int]) -> None:
    dense = np.random.default_rng(1).random(shape) * (np.random.default_rng(2).random(shape) < 0.3)
    found = singular_vectors(sparse.csr_array(dense), 6, seed=0)
    truth = np.linalg.svd(dense)[2][:6].T
    assert found.shape == (shape[1], 6)
    assert found.dtype == np.float32
    assert np.abs(np.sum(found * truth, axis=0)) == pytest.approx(np.ones(6), abs=1e-5)  # up to the sign


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 5, 25])
def test_a_low_rank_leaves_nothing_to_chance(shape: tuple[int, int], rank: int) -> None:
    dense = matrix(shape, rank)
    first, *others = (singular_vectors(sparse.csr_array(dense), 20, seed=3) for _ in range(4))
    assert all((first == other).all() for other in others)
    known = min(rank, 20)
    assert first.T @ first == pytest.approx(np.diag(np.arange(20) < known).astype(float), abs=1e-4)
    if rank < 20:
        assert dense @ first @ first.T == pytest.approx(dense, abs=1e-4)


def test_no_more_are_found_than_there_are() -> None:
    assert singular_vectors(sparse.csr_array(np.eye(4, 7)), 50, seed=0).shape == (7, 3)
