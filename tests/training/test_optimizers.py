import io
import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from rayrec.training.optimizers import Ftrl, LazyAdam, clip_gradients, coalesce, sort_rows, sparse_parameters

ROWS, COLUMNS = 50, 4


@pytest.fixture
def start() -> Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))


def batches(number: int, ids: int = 30) -> list[tuple[Tensor, Tensor]]:
    """Looked-up ids, most of them twice or more, and the target of each one's vector."""
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randint(ROWS // 2, (ids,), generator=generator), torch.randn(ids, COLUMNS, generator=generator))
        for _ in range(number)
    ]


def train(
    weights: Tensor,
    make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    data: list[tuple[Tensor, Tensor]],
    sparse: bool,
) -> Tensor:
    table = nn.Parameter(weights.clone())
    optimizer = make([table])
    for ids, target in data:
        optimizer.zero_grad()
        (embedding(ids, table, sparse=sparse) - target).square().sum().backward()
        optimizer.step()
    return table.detach()


def test_coalesce_is_torchs(start: Tensor) -> None:
    for ids in (torch.tensor([7, 3, 7, 7, 0, 3]), torch.tensor([], dtype=torch.int64)):
        table = nn.Parameter(start)
        (embedding(ids, table, sparse=True) * torch.arange(len(ids))[:, None]).sum().backward()
        expected, found = table.grad.coalesce(), coalesce(table.grad)
        assert found.is_coalesced()
        torch.testing.assert_close(found.indices(), expected.indices())
        torch.testing.assert_close(found.values(), expected.values())


@pytest.mark.parametrize("count", [1, 50, 1 << 16, 10_000_000, 1 << 32])
def test_rows_are_sorted_and_equal_ones_keep_their_order(count: int) -> None:
    for rows in (torch.randint(0, count, (5000,), generator=torch.Generator().manual_seed(1)), torch.tensor([], dtype=torch.int64)):
        expected, places = torch.sort(rows, stable=True)
        found, order = sort_rows(rows)
        assert torch.equal(found, expected)
        assert torch.equal(order, places)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_dense_adam_is_torchs(start: Tensor, weight_decay: float) -> None:
    found = train(start, lambda p: LazyAdam(p, lr=0.1, weight_decay=weight_decay), batches(20), sparse=False)
    expected = train(start, lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=weight_decay), batches(20), sparse=False)
    torch.testing.assert_close(found, expected)


def test_sparse_adam_is_torchs(start: Tensor) -> None:
    found = train(start, lambda p: LazyAdam(p, lr=0.1), batches(20), sparse=True)
    expected = train(start, lambda p: torch.optim.SparseAdam(p, lr=0.1), batches(20), sparse=True)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found[ROWS // 2 :], start[ROWS // 2 :])


@pytest.mark.parametrize("make", [lambda p: LazyAdam(p, 0.1, weight_decay=0.1), lambda p: Ftrl(p, l1=1.0, l2=0.5)])
def test_sparse_is_dense_where_all_rows_are_touched(
    start: Tensor, make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
) -> None:
    data = [(torch.cat([torch.arange(ROWS), ids]), torch.cat([start, target])) for ids, target in batches(10)]
    torch.testing.assert_close(train(start, make, data, sparse=True), train(start, make, data, sparse=False))


@pytest.mark.parametrize("sparse", [False, True])
def test_ftrl_is_algorithm_1(sparse: bool) -> None:
    alpha, beta, l1, l2 = 0.5, 1.0, 8.0, 0.2
    found = train(torch.zeros(ROWS, COLUMNS), lambda p: Ftrl(p, alpha, beta, l1, l2), batches(20), sparse)

    z, n, w = np.zeros((3, ROWS, COLUMNS))
    for ids, target in batches(20):
        for row in set(ids.tolist()):
            for column in range(COLUMNS):
                if abs(z[row, column]) <= l1:
                    w[row, column] = 0
                else:
                    shrunk = z[row, column] - math.copysign(l1, z[row, column])
                    w[row, column] = -shrunk / ((beta + math.sqrt(n[row, column])) / alpha + l2)
                g = sum(2 * (w[row, column] - float(goal[column])) for id_, goal in zip(ids, target, strict=True) if id_ == row)
                sigma = (math.sqrt(n[row, column] + g * g) - math.sqrt(n[row, column])) / alpha
                z[row, column] += g - sigma * w[row, column]
                n[row, column] += g * g
    shrunk = z - np.copysign(l1, z)
    expected = np.where(np.abs(z) <= l1, 0, -shrunk / ((beta + np.sqrt(n)) / alpha + l2))

    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)
    zeros = (found[: ROWS // 2] == 0).sum()
    assert 0 < zeros < ROWS // 2 * COLUMNS, "l1 leaves some weights out, not all"


@pytest.mark.parametrize("make", [lambda p: LazyAdam(p, 0.1), lambda p: Ftrl(p, l1=0.1)])
def test_state_comes_back(start: Tensor, make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]) -> None:
    def parameters() -> tuple[nn.Parameter, nn.Parameter]:
        return nn.Parameter(start.clone()), nn.Parameter(start[0].clone())

    def step(optimizer: torch.optim.Optimizer, table: nn.Parameter, bias: nn.Parameter, ids: Tensor, target: Tensor) -> None:
        optimizer.zero_grad()
        (embedding(ids, table, sparse=True) + bias - target).square().mean().backward()
        optimizer.step()

    straight, resumed = parameters(), parameters()
    data = batches(6)
    optimizer = make(straight)
    for batch in data[:3]:
        step(optimizer, *straight, *batch)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "weights": [tensor.detach() for tensor in straight]}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = make(resumed)
    other.load_state_dict(saved["optimizer"])
    for tensor, weights in zip(resumed, saved["weights"], strict=True):
        tensor.data.copy_(weights)
    for batch in data[3:]:
        step(optimizer, *straight, *batch)
        step(other, *resumed, *batch)
    assert all(torch.equal(one, two) for one, two in zip(straight, resumed, strict=True))


@pytest.mark.parametrize("most", [0.5, 1e6])
def test_clipping_is_torchs(start: Tensor, most: float) -> None:
    def gradients(sparse: bool) -> list[nn.Parameter]:
        table, bias, unused = nn.Parameter(start.clone()), nn.Parameter(start[0].clone()), nn.Parameter(start[1].clone())
        for ids, target in batches(2):
            (embedding(ids, table, sparse=sparse) + bias - target).square().sum().backward()
        return [table, bias, unused]

    dense, mixed = gradients(sparse=False), gradients(sparse=True)
    torch.testing.assert_close(clip_gradients(mixed, most), nn.utils.clip_grad_norm_(dense, most))
    torch.testing.assert_close(mixed[0].grad.to_dense(), dense[0].grad)
    torch.testing.assert_close(mixed[1].grad, dense[1].grad)


def test_sparse_parameters_are_those_of_sparse_modules() -> None:
    table = nn.Embedding(3, 2, sparse=True)
    model = nn.Sequential(nn.Embedding(3, 2), table, nn.Sequential(nn.Linear(2, 2), table))
    assert sparse_parameters(model) == [table.weight]
