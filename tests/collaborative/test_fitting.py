"""Batches, drawn negatives and early stopping of the models that learn step by step, and that workers train what one would."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch
from scipy import sparse

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.fitting import NDCG, RECALL, TrainableOnPairs, TrainableOnUsers, TrainableVectors
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.models import build
from rayrec.collaborative.vectors import VectorModel
from rayrec.config import Collaborative
from rayrec.training.exchange import SINGLE, Worker
from rayrec.training.metrics import ndcg_at_k, recall_at_k
from rayrec.training.trainer import DivergedError
from rayrec.workspace.checkpoint import Checkpoint
from tests.collaborative.tastes import ITEMS, two_tastes

FIRST = Fitting(seed=1)
NAMES = ["bpr", "lightgcn", "multimodal_gcn", "two_tower"]
QUICK = {"size": 8, "epochs": 3, "batch_size": 32, "learning_rate": 0.01}


def model(name: str, **options: Any) -> VectorModel:
    found = build(Collaborative(model=name, options=QUICK | options))
    assert isinstance(found, VectorModel)
    return found


def trainable(name: str, worker: Worker = SINGLE, **options: Any) -> TrainableVectors:
    torch.manual_seed(0)
    return model(name, **options).trainable(two_tastes(), Fitting(seed=5, worker=worker))


def fitted(name: str, fitting: Fitting = FIRST, **options: Any) -> VectorModel:
    found = model(name, **options)
    found.fit(two_tastes(), fitting)
    return found


def same(one: VectorModel, other: VectorModel) -> bool:
    return all(np.array_equal(values, other.arrays()[name]) for name, values in one.arrays().items())


@pytest.mark.parametrize("name", NAMES)
def test_the_shares_of_workers_add_up_to_the_gradient_of_one(name: str) -> None:
    def gradients(part: TrainableVectors) -> tuple[float, list[torch.Tensor]]:
        share, examples = next(part.batches(2, 1))
        loss = part.losses(share, examples)[0]
        loss.backward()
        return loss.item(), [weights.grad.to_dense() for weights in part.model.parameters()]

    alone, gradient = gradients(trainable(name))
    parts = [gradients(trainable(name, Worker(rank, 3))) for rank in range(3)]
    assert sum(loss for loss, _ in parts) == pytest.approx(alone, rel=1e-5)
    for number, whole in enumerate(gradient):
        torch.testing.assert_close(sum(found[number] for _, found in parts), whole, rtol=1e-4, atol=1e-7)


def test_an_epoch_has_every_click_once_beside_an_item_that_its_user_has_not_clicked() -> None:
    part = trainable("bpr")
    assert isinstance(part, TrainableOnPairs)
    likes = two_tastes().likes.toarray()
    batches = [share for share, _ in part.batches(1, 0)]
    assert len(batches) == part.steps(1)
    user, item, negative = (np.concatenate([getattr(share, name) for share in batches]) for name in ("user", "item", "negative"))
    assert sorted(zip(user, item, strict=True)) == list(zip(*np.nonzero(likes), strict=True))
    assert not likes[user, negative].any()
    assert set(negative) == set(range(1, ITEMS))
    other = np.concatenate([share.negative for share, _ in part.batches(2, 0)])
    assert not np.array_equal(negative, other)


def test_users_who_have_clicked_everything_are_no_endless_loop() -> None:
    likes = sparse.csr_array(np.array([[0, 0, 0], [0, 1, 1]], np.float32))
    found = model("bpr").trainable(Feedback(likes, likes), Fitting())
    share, _ = next(found.batches(1, 0))
    assert share is not None
    assert len(share.negative) == 2


def test_an_epoch_has_every_user_once_with_all_that_they_clicked() -> None:
    part = trainable("multimodal_gcn", batch_size=16)
    assert isinstance(part, TrainableOnUsers)
    found = set()
    for share, examples in part.batches(1, 0):
        assert share is not None
        assert examples == len(share.item_L)
        found |= set(zip(share.user_B[share.row_L].tolist(), share.item_L.tolist(), strict=True))
    assert found == set(zip(*map(np.ndarray.tolist, two_tastes().likes.nonzero()), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_steps_that_are_left_out_change_nothing_of_the_others(name: str) -> None:
    whole, rest = list(trainable(name).batches(3, 0)), list(trainable(name).batches(3, 1))
    assert len(whole) > 1
    for (one, examples), (other, count) in zip(whole[1:], rest, strict=True):
        assert examples == count
        assert all(torch.equal(value, vars(other)[key]) for key, value in vars(one).items())


@pytest.mark.parametrize("name", NAMES)
def test_the_validation_ranks_all_items_but_those_clicked_before(name: str) -> None:
    part, feedback = trainable(name), two_tastes()
    scores = torch.mul(*(vectors.unsqueeze(dim) for dim, vectors in zip((1, 0), part.network.vectors(), strict=True))).sum(2)
    found = []
    for user in range(1, feedback.users):
        relevant = np.flatnonzero(feedback.held_out[[user]].toarray()[0])
        seen = {0, *np.flatnonzero(feedback.likes[[user]].toarray()[0]).tolist()}
        page = [item for item in torch.argsort(-scores[user]).tolist() if item not in seen][:20]
        if len(relevant):
            found.append((recall_at_k(np.array(page), relevant), ndcg_at_k(np.array(page), relevant, 20)))
    recall, ndcg = np.mean(found, axis=0)
    assert part.validate() == pytest.approx({RECALL: recall, NDCG: ndcg})


def test_without_held_out_clicks_the_last_epoch_counts() -> None:
    feedback = two_tastes()
    found = model("lightgcn", patience=1)
    epochs = found.fit(Feedback(feedback.likes, sparse.csr_array(feedback.likes.shape, dtype=np.float32)), Fitting())
    assert [epoch.metrics for epoch in epochs] == [{}, {}, {}]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_model_and_another_one_another(name: str) -> None:
    assert same(fitted(name), fitted(name))
    assert not same(fitted(name), fitted(name, Fitting(seed=2)))


@pytest.mark.parametrize("name", NAMES)
def test_a_training_that_was_killed_goes_on(name: str, tmp_path: Path) -> None:
    def fitting(**more: Any) -> Fitting:
        return Fitting(seed=1, checkpoint=Checkpoint(pafs.LocalFileSystem(), str(tmp_path / "state")), **more)

    fitted(name, fitting(), epochs=1)
    assert same(fitted(name, fitting()), fitted(name))


def test_divergence_names_the_option() -> None:
    with pytest.raises(DivergedError, match=r"lower collaborative.options.learning_rate \(1e\+30\)"):
        fitted("lightgcn", learning_rate=1e30)


@pytest.mark.parametrize("name", NAMES)
def test_tastes_are_learned(name: str) -> None:
    found, feedback = fitted(name, epochs=40, patience=40), two_tastes()
    for users in (np.arange(1, feedback.users), np.zeros(feedback.users - 1, np.int64)):  # known, and new with the same clicks
        scores = found.scores(users, feedback.likes[1:])[:, 1:-2]
        odd = np.arange(1, feedback.users)[:, None] % 2 == np.arange(1, ITEMS - 2) % 2
        gaps = [row[same_taste].mean() - row[~same_taste].mean() for row, same_taste in zip(scores, odd, strict=True)]
        assert np.mean(np.array(gaps) > 0) > 0.95
    alike = found.similar(np.arange(1, ITEMS - 2))[:, 1:-2]
    same_taste = (np.arange(1, ITEMS - 2)[:, None] - np.arange(1, ITEMS - 2)) % 2 == 0
    assert alike[same_taste].mean() > alike[~same_taste].mean()


@pytest.mark.parametrize("name", NAMES)
def test_recall_serves_a_new_user_from_the_factors(name: str) -> None:
    found, feedback = fitted(name), two_tastes()
    factors = found.factors()
    expected = (feedback.likes @ factors.clicked) @ factors.candidate.T
    np.testing.assert_allclose(found.scores(np.zeros(feedback.users, np.int64), feedback.likes), expected, rtol=1e-4, atol=1e-6)
