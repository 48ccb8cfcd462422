"""The losses and the vectors of the models that learn step by step are those of the papers, written out as loops."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import Ridge
from torch.nn.functional import normalize

from rayrec.collaborative.fitting import InBatch, Network
from rayrec.collaborative.graph import neighbour_graph, normalised
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.models import build
from rayrec.collaborative.models.mixed import Mixed
from rayrec.collaborative.models.multimodal_gcn import spectral_start
from rayrec.collaborative.models.two_tower import Towers, TwoTower
from rayrec.collaborative.softmax import log_sum_exp
from rayrec.collaborative.vectors import VectorModel
from rayrec.config import Collaborative
from rayrec.workspace.checkpoint import Checkpoint
from tests.collaborative.tastes import two_tastes

OPTIONS = {"size": 4, "batch_size": 24}


def untrained(name: str, **options: Any) -> tuple[Network, Any]:
    """A network with random weights and its first batch."""
    model = build(Collaborative(model=name, options=OPTIONS | options))
    assert isinstance(model, VectorModel)
    trainable = model.trainable(two_tastes(), Fitting())
    torch.manual_seed(1)
    for weights in trainable.network.parameters():
        torch.nn.init.normal_(weights, std=0.5)
    return trainable.network, next(trainable.batches(1, 0))[0]


def table(embedding: Any) -> np.ndarray:
    found: np.ndarray = embedding.weight.detach().double().numpy()
    return found


def spread(user: np.ndarray, item: np.ndarray, layers: int) -> tuple[np.ndarray, np.ndarray]:
    """The means over all layers: LightGCN, eq. 3 and 4, one click at a time."""
    likes = two_tastes().likes
    of_user, of_item = likes.sum(axis=1), likes.sum(axis=0)
    users, items = user.copy(), item.copy()
    for _ in range(layers):
        next_user, next_item = np.zeros_like(user), np.zeros_like(item)
        for u, i in zip(*likes.nonzero(), strict=True):
            weight = 1 / np.sqrt(float(of_user[u]) * float(of_item[i]))
            next_user[u] += weight * item[i]
            next_item[i] += weight * user[u]
        user, item = next_user, next_item
        users, items = users + user, items + item
    return users / (layers + 1), items / (layers + 1)


def test_bpr() -> None:
    network, batch = untrained("bpr", regularisation=0.3)
    p, (q, b) = table(network.user), np.split(table(network.item), [-1], axis=1)
    b = b[:, 0]
    expected = []
    for u, i, j in zip(batch.user, batch.item, batch.negative, strict=True):
        gap = p[u] @ q[i] + b[i] - p[u] @ q[j] - b[j]
        squares = (p[u] ** 2).sum() + (q[i] ** 2).sum() + (q[j] ** 2).sum() + b[i] ** 2 + b[j] ** 2
        expected.append(-np.log(1 / (1 + np.exp(-gap))) + 0.15 * squares)
    np.testing.assert_allclose(network.losses(batch).detach(), expected, rtol=1e-5)
    users, items = network.vectors()
    np.testing.assert_allclose((users @ items.T).detach(), p @ q.T + b, rtol=1e-4, atol=1e-5)


def test_bpr_gives_a_new_user_what_the_ridge_regression_says() -> None:
    feedback, model = two_tastes(), build(Collaborative(model="bpr", options=OPTIONS | {"epochs": 3, "ridge": 2.0}))
    model.fit(feedback, Fitting())
    assert isinstance(model, VectorModel)
    sums = feedback.likes @ model.items_IS
    regression = Ridge(alpha=2.0, fit_intercept=False).fit(sums.astype(np.float64), model.users_US.astype(np.float64))
    np.testing.assert_allclose(feedback.likes @ model.clicked_IS, regression.predict(sums), atol=1e-4)


@pytest.mark.parametrize("layers", [1, 3])
def test_lightgcn(layers: int) -> None:
    network, batch = untrained("lightgcn", regularisation=0.3, layers=layers)
    user, item = table(network.user), table(network.item)
    users, items = spread(user, item, layers)
    for found, expected_vectors in zip(network.vectors(), (users, items), strict=True):
        np.testing.assert_allclose(found.detach(), expected_vectors, atol=1e-5)
    expected = []
    for u, i, j in zip(batch.user, batch.item, batch.negative, strict=True):
        squares = (user[u] ** 2).sum() + (item[i] ** 2).sum() + (item[j] ** 2).sum()
        expected.append(np.log(1 + np.exp(-users[u] @ (items[i] - items[j]))) + 0.15 * squares)
    np.testing.assert_allclose(network.losses(batch).detach(), expected, rtol=1e-4)


@pytest.mark.parametrize(("modalities", "balance"), [([], 0.5), (["audio"], 0.0), (["image", "audio"], 1.0)])
def test_multimodal_gcn(modalities: list[str], balance: float) -> None:
    network, batch = untrained("multimodal_gcn", modalities=modalities, neighbours=3, content=0.7, temperature=0.4, balance=balance)
    feedback = two_tastes()
    touched = np.flatnonzero(feedback.likes.sum(axis=0))
    learned = np.zeros_like(table(network.item))
    learned[touched] = table(network.item)[touched]
    users, items = spread(table(network.user), learned, 2)
    for name in modalities:
        graph = neighbour_graph(feedback.vectors[name], 3).tocoo()
        for one, other, weight in zip(graph.row, graph.col, graph.data, strict=True):
            items[one] += 0.7 / len(modalities) * weight * learned[other]
    users, items = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) for vectors in (users, items))
    for found, expected_vectors in zip(network.vectors(), (users, items), strict=True):
        np.testing.assert_allclose(found.detach(), expected_vectors, atol=1e-5)
    clicks = feedback.likes.sum(axis=1)
    mean_weight = (clicks[clicks > 0] ** (1 - balance)).sum() / clicks.sum()
    expected = []
    for row, item in zip(batch.row_L, batch.item_L, strict=True):
        user = batch.user_B[row]
        scores = users[user] @ items.T / 0.4
        expected.append((np.log(np.exp(scores[touched]).sum()) - scores[item]) * clicks[user] ** -balance / mean_weight)
    np.testing.assert_allclose(network.losses(batch).detach(), expected, rtol=1e-4)


def test_the_vectors_of_multimodal_gcn_start_from_the_nearest_products() -> None:
    graph = normalised(two_tastes().likes)
    users, items = spectral_start(graph, 50, seed=1)  # more than the matrix has
    left, values, right = np.linalg.svd(graph.toarray())
    rank = int(np.linalg.matrix_rank(graph.toarray()))  # fewer than items, since nobody clicked some
    nearest = (left[:, :rank] * values[:rank]) @ right[:rank]
    products = users[:, :rank] @ items[:, :rank].T
    np.testing.assert_allclose(products * (nearest.std() / products.std()), nearest, atol=1e-4)
    assert users.std() == pytest.approx(0.1, rel=0.1)
    assert items[:, rank:].std() == pytest.approx(0.1, rel=0.1)


def test_multimodal_gcn_is_measured_by_the_running_mean_of_its_vectors() -> None:
    trainable = build(Collaborative(model="multimodal_gcn", options=OPTIONS)).trainable(two_tastes(), Fitting())  # type: ignore[attr-defined]
    network, expected = trainable.network, table(trainable.network.item)
    for batch, examples in trainable.batches(1, 0):
        trainable.optimizer.zero_grad()
        trainable.losses(batch, examples)[0].backward()
        trainable.optimizer.step()
        expected = 0.9 * expected + 0.1 * table(network.item)
    np.testing.assert_allclose(network.item_mean, expected, atol=1e-6)
    learning = network.vectors()[1].detach()
    with torch.no_grad():
        measured = network.eval().vectors()[1]
        network.item.weight.copy_(network.item_mean)
        network.user.weight.copy_(network.user_mean)
        torch.testing.assert_close(network.train().vectors()[1], measured)
    assert not torch.allclose(learning, measured)


def test_log_sum_exp_and_its_gradients_are_those_of_torch() -> None:
    torch.manual_seed(0)
    queries, keys = (normalize(torch.randn(count, 4), dim=1).mul(3).requires_grad_() for count in (5, 7))
    weights = torch.rand(5)
    found, expected = log_sum_exp(queries, keys, 9.0), (queries @ keys.T).logsumexp(1)
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(each @ weights, (queries, keys)) for each in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


@pytest.mark.parametrize("modalities", [[], ["image", "audio"]])
def test_two_tower(modalities: list[str]) -> None:
    network, batch = untrained("two_tower", modalities=modalities, temperature=0.4, hidden=3)
    feedback = two_tastes()
    likes = feedback.likes.toarray()
    shares = likes.sum(axis=0) / likes.sum()
    content = np.concatenate([np.zeros((feedback.items, 0)), *(unit(feedback.vectors[name]) for name in modalities)], axis=1)

    def tower(of: Any) -> np.ndarray:
        found = table(of.ids) * (shares > 0)[:, None]
        if modalities:
            first, _, last = of.content
            weights = [each.detach().double().numpy() for each in (first.weight, first.bias, last.weight, last.bias)]
            learned = np.maximum(content @ weights[0].T + weights[1], 0) @ weights[2].T + weights[3]
            found = found + learned * content.any(axis=1, keepdims=True)
        return found

    history, item = tower(network.history), unit(tower(network.item))
    for found, expected_vectors in zip(network.vectors(), (unit(likes @ history), item), strict=True):
        np.testing.assert_allclose(found.detach(), expected_vectors, atol=1e-5)
    expected = []
    for u, i in zip(batch.user.tolist(), batch.item.tolist(), strict=True):
        others = [j for j in np.flatnonzero(likes[u]) if j != i]
        user = unit(history[others].sum(axis=0))
        corrected = [user @ item[j] / 0.4 - np.log(shares[j]) for j in batch.items.tolist() if j != i]
        own = user @ item[i] / 0.4 - np.log(shares[i])
        expected.append(np.log(np.exp(corrected).sum() + np.exp(own)) - own)
    np.testing.assert_allclose(network.losses(batch).detach(), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"), [("multimodal_gcn", {"neighbours": 5}), ("two_tower", {"modalities": ["image", "audio"], "hidden": 8})]
)
def test_items_that_nobody_clicked_get_vectors_from_what_is_like_them(name: str, options: dict[str, Any]) -> None:
    feedback = two_tastes()
    model = build(Collaborative(model=name, options=OPTIONS | {"epochs": 30, "learning_rate": 0.02} | options))
    model.fit(feedback, Fitting())
    new = np.array([feedback.items - 2, feedback.items - 1])  # one of each taste
    scores = model.scores(np.arange(1, feedback.users), feedback.likes[1:])[:, new]
    odd_user = np.arange(1, feedback.users) % 2
    right = (scores[:, 1] > scores[:, 0]) == (odd_user == new[1] % 2)
    assert right.mean() > 0.9


def test_a_part_that_is_fitted_several_times_has_other_seeds_and_goes_on_from_checkpoints(tmp_path: Path) -> None:
    options = OPTIONS | {"epochs": 3}
    path, feedback = str(tmp_path / "state"), two_tastes()
    fitting = Fitting(seed=1, checkpoint=Checkpoint(pafs.LocalFileSystem(), path))

    def mixed() -> Mixed:
        found = build(Collaborative(model="mixed", options={"parts": [{"model": "bpr", "options": options, "times": 2}]}))
        assert isinstance(found, Mixed)
        return found

    first, again = mixed(), mixed()
    assert len(first.fit(feedback, fitting)) == 6
    assert list(tmp_path.iterdir()) == []
    one, other = first.models
    assert not np.array_equal(one.arrays()["items"], other.arrays()["items"])
    one.fit(feedback, replace(fitting, checkpoint=Checkpoint(pafs.LocalFileSystem(), f"{path}.part0")))  # and is killed
    again.fit(feedback, fitting)
    for name, values in first.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], values)


def test_users_of_a_single_click_leave_the_gradients_of_two_tower_as_they_are() -> None:
    """What is left of their clicks is nothing, and has no direction; its gradient would be without bound."""
    likes = sparse.csr_array(np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1]], np.float32))
    torch.manual_seed(0)
    network = Towers(likes, [], TwoTower.Options(size=4, modalities=[]))
    user, item = (torch.from_numpy(column.astype(np.int64)) for column in likes.nonzero())
    losses = network.losses(InBatch(user, item, item - 1, torch.arange(1, 4)))
    history = network.history.ids.weight
    every, others = (torch.autograd.grad(some.sum(), history, retain_graph=True)[0] for some in (losses, losses[user > 1]))
    torch.testing.assert_close(every, others)
    assert others[1].abs().max() > 0
