"""Gathering gives the same values and gradients as indexing."""

from collections.abc import Callable

import pytest
import torch

from rayrec.ranking.gathering import field_sums, gather, unique_rows, weighted_sum

OfMatrix = Callable[[torch.Tensor], torch.Tensor]


@pytest.mark.parametrize("count", [50, 10_000])
def test_unique_rows_and_their_positions(count: int) -> None:
    rows = torch.tensor([[3, 0, 41], [41, 3, 7]])
    found, position = unique_rows(rows, count)
    assert found.tolist() == [0, 3, 7, 41]
    assert torch.equal(found[position], rows)


def both(function: OfMatrix, reference: OfMatrix, matrix: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Values and gradients of both functions, for the same gradient of the output."""
    results = []
    for one in (function, reference):
        leaf = matrix.clone().requires_grad_()
        out = one(leaf)
        out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
        assert leaf.grad is not None
        results.append((out.detach(), leaf.grad))
    return results


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 3)])
def test_gather_is_indexing(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    index = torch.tensor([[5, 0, 0, 2], [2, 2, 5, 0]])  # rows 1, 3 and 4 are never used
    ours, theirs = both(lambda matrix: gather(matrix, index), lambda matrix: matrix[index], torch.randn(shape))
    torch.testing.assert_close(ours, theirs)


def test_weighted_sum_is_a_sum_with_weights() -> None:
    torch.manual_seed(0)
    index, weight = torch.randint(0, 6, (4, 5)), torch.rand(4, 5)
    weight[1] = 0
    ours, theirs = both(
        lambda matrix: weighted_sum(matrix, index, weight),
        lambda matrix: (matrix[index] * weight[..., None]).sum(1),
        torch.randn(6, 3),
    )
    torch.testing.assert_close(ours, theirs)


def test_field_sums_are_sums_over_bags_and_their_gradient_is_sparse() -> None:
    torch.manual_seed(0)
    values, weight, start = torch.tensor([4, 1, 1, 0, 4, 2], dtype=torch.int32), torch.rand(6), torch.tensor([0, 2, 2, 5])
    weight[3] = 0  # such a row is listed, too

    def sums(table: torch.Tensor) -> torch.Tensor:
        parts = (table[values.long()] * weight[:, None]).tensor_split([2, 2, 5])  # the second bag is empty
        return torch.stack([part.sum(0) for part in parts])

    ours, theirs = both(lambda table: field_sums(table, values, weight, start), sums, torch.randn(6, 3))
    assert ours[1].is_sparse
    assert ours[1]._indices()[0].tolist() == [0, 1, 2, 4]
    torch.testing.assert_close((ours[0], ours[1].to_dense()), theirs)
