"""Propagation, its gradient and the graph of neighbours, against dense matrices and loops."""

import numpy as np
import pytest
import torch
from scipy import sparse

from rayrec.collaborative.graph import Graph, clicked_vectors, neighbour_graph, normalised, spread
from tests.collaborative.tastes import two_tastes


def test_products_and_their_gradients_are_those_of_the_dense_matrix() -> None:
    matrix = np.random.default_rng(0).random((5, 4)).astype(np.float32) * (np.random.default_rng(1).random((5, 4)) < 0.5)
    matrix[2] = 0  # an empty row
    graph, dense = Graph(sparse.csr_array(matrix)), torch.from_numpy(matrix)
    for product, whole, size in ((graph, dense, 4), (graph.reverse, dense.T, 5)):
        x = torch.randn(size, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
        torch.testing.assert_close(product(x), whole @ x)
        (gradient,) = torch.autograd.grad(product(x).square().sum(), x)
        (expected,) = torch.autograd.grad((whole @ x).square().sum(), x)
        torch.testing.assert_close(gradient, expected)
    assert not list(graph.state_dict())


def test_an_edge_weighs_one_over_the_root_of_both_degrees() -> None:
    found = normalised(sparse.csr_array(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]], np.float32))).toarray()
    np.testing.assert_allclose(found, [[1 / np.sqrt(2), 1 / np.sqrt(2 * 2), 0], [0, 1 / np.sqrt(2), 0], [0, 0, 0]], rtol=1e-6)


def test_each_layer_is_the_sum_over_neighbours() -> None:
    likes = two_tastes().likes
    rng = np.random.default_rng(2)
    user, item = (rng.normal(size=(count, 3)).astype(np.float32) for count in likes.shape)
    layers = spread(Graph(normalised(likes)), torch.from_numpy(user), torch.from_numpy(item), 2)
    assert len(layers) == 3
    degrees = likes.sum(axis=1), likes.sum(axis=0)
    for user_layer, item_layer in layers:
        np.testing.assert_allclose(user_layer.numpy(), user, atol=1e-6)
        np.testing.assert_allclose(item_layer.numpy(), item, atol=1e-6)
        next_user, next_item = np.zeros_like(user), np.zeros_like(item)
        for u, i in zip(*likes.nonzero(), strict=True):
            weight = 1 / np.sqrt(degrees[0][u] * degrees[1][i])
            next_user[u] += weight * item[i]
            next_item[i] += weight * user[u]
        user, item = next_user, next_item


def test_a_new_user_with_the_clicks_of_a_known_one_gets_what_propagation_brought_to_that_one() -> None:
    likes = two_tastes().likes
    rng = np.random.default_rng(2)
    item = rng.normal(size=(likes.shape[1], 3)).astype(np.float32)
    layers = spread(Graph(normalised(likes)), torch.zeros(likes.shape[0], 3), torch.from_numpy(item), 3)
    users = torch.stack([user for user, _ in layers]).mean(0).numpy()
    sums = likes @ clicked_vectors([layer for _, layer in layers], likes)
    np.testing.assert_allclose(sums / np.sqrt(np.maximum(likes.sum(axis=1), 1))[:, None], users, atol=1e-5)


@pytest.mark.parametrize("rows_at_once", [3, 1000])
def test_the_neighbours_are_the_nearest_by_centred_cosine(monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    monkeypatch.setattr("rayrec.collaborative.graph.ROWS_AT_ONCE", rows_at_once)
    vectors = np.random.default_rng(4).normal(1, 1, (12, 5)).astype(np.float32)
    vectors[[0, 7]] = 0
    found = neighbour_graph(vectors, 3)
    present = [row for row in range(12) if row not in (0, 7)]
    centred = vectors - vectors[present].mean(axis=0)
    joined = np.zeros((12, 12), np.float32)
    for row in present:
        cosines = {
            other: centred[row] @ centred[other] / np.linalg.norm(centred[row]) / np.linalg.norm(centred[other])
            for other in present
            if other != row
        }
        joined[row, sorted(cosines, key=lambda other: -cosines[other])[:3]] = 1
    np.testing.assert_allclose(found.toarray(), normalised(sparse.csr_array(joined)).toarray(), rtol=1e-6)


@pytest.mark.parametrize("present", [0, 1, 2])
def test_few_items_have_as_many_neighbours_as_there_are(present: int) -> None:
    vectors = np.zeros((4, 2), np.float32)
    vectors[1 : 1 + present] = np.eye(2, dtype=np.float32)[:present]
    assert neighbour_graph(vectors, 10).nnz == max(0, present * (present - 1))
