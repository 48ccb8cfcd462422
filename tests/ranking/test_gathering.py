"""Gathering against indexing, forwards and backwards."""

import pytest
import torch

from rayrec.ranking.gathering import distinct, gather, weighted_sum


@pytest.mark.parametrize("count", [50, 10_000])
def test_distinct_rows_and_their_places(count):
    rows = torch.tensor([[3, 0, 41], [41, 3, 7]])
    found, place = distinct(rows, count)
    assert found.tolist() == [0, 3, 7, 41]
    assert torch.equal(found[place], rows)


def both(function, reference, matrix):
    """Values and gradients of both, under the same random pull."""
    results = []
    for one in (function, reference):
        leaf = matrix.clone().requires_grad_()
        out = one(leaf)
        out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
        results.append((out.detach(), leaf.grad))
    return results


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 3)])
def test_gather_is_indexing(shape):
    torch.manual_seed(0)
    place = torch.tensor([[5, 0, 0, 2], [2, 2, 5, 0]])  # rows 1, 3 and 4 are never used
    ours, theirs = both(lambda matrix: gather(matrix, place), lambda matrix: matrix[place], torch.randn(shape))
    torch.testing.assert_close(ours, theirs)


def test_weighted_sum_is_a_sum_with_weights():
    torch.manual_seed(0)
    place, weight = torch.randint(0, 6, (4, 5)), torch.rand(4, 5)
    weight[1] = 0
    ours, theirs = both(
        lambda matrix: weighted_sum(matrix, place, weight),
        lambda matrix: (matrix[place] * weight[..., None]).sum(1),
        torch.randn(6, 3),
    )
    torch.testing.assert_close(ours, theirs)
