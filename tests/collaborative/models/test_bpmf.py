"""`bpmf` on a world of two factors with noise of 0.3, where nothing predicts better than that."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
from scipy import sparse

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.models import build
from rayrec.collaborative.models.bpmf import BPMF, components
from rayrec.collaborative.ratings import RatingData
from rayrec.config import Collaborative, ConfigError
from rayrec.training.callbacks import Epoch, TrainingCallback
from rayrec.workspace.checkpoint import Checkpoint, CheckpointError
from tests.collaborative.rated import rated, rmse

SHORT = {"size": 3, "components": 4, "epochs": 60, "burn_in": 20, "samples": 40}


def fitted(data: RatingData, seed: int = 1, **options: int) -> BPMF:
    model = build(Collaborative(model="bpmf", options=SHORT | options))
    assert isinstance(model, BPMF)
    model.fit(Feedback.of_ratings(data), Fitting(seed=seed))
    return model


def test_it_comes_close_to_the_noise() -> None:
    data = rated()
    model = fitted(data)
    assert rmse(model.predict(data.held_out.user, data.held_out.item), data.held_out) < 0.45


def test_the_same_seed_draws_the_same_and_another_one_does_not() -> None:
    one, other, third = fitted(rated()), fitted(rated()), fitted(rated(), seed=2)
    assert (one.item_IS == other.item_IS).all()
    assert not (one.item_IS == third.item_IS).all()


@pytest.mark.parametrize("done", [10, 30])  # before any sample is kept, and after
def test_a_fitting_that_was_killed_goes_on_as_if_it_had_not(done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.collaborative.models.bpmf.CHECKPOINT_S", 0.0)
    checkpoint = Checkpoint(pafs.LocalFileSystem(), str(tmp_path / "state"))

    def fit(on_epoch: Callable[[list[Epoch]], None]) -> tuple[BPMF, list[Epoch]]:
        model = build(Collaborative(model="bpmf", options=SHORT))
        assert isinstance(model, BPMF)
        fitting = Fitting(seed=1, callback=TrainingCallback(on_epoch), checkpoint=checkpoint)
        return model, model.fit(Feedback.of_ratings(rated()), fitting)

    def stop(epochs: list[Epoch]) -> None:
        if len(epochs) == done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(stop)
    seen: list[int] = []
    resumed, epochs = fit(lambda epochs: seen.append(len(epochs)))
    assert seen[0] == done + 1
    whole = fitted(rated())
    assert [epoch.epoch for epoch in epochs] == list(range(1, SHORT["epochs"] + 1))
    assert (resumed.item_IS == whole.item_IS).all()
    assert (resumed.user_US == whole.user_US).all()
    other = build(Collaborative(model="bpmf", options=SHORT | {"size": 4}))
    with pytest.raises(CheckpointError, match="a checkpoint of another config or other data"):
        other.fit(Feedback.of_ratings(rated()), Fitting(seed=1, checkpoint=checkpoint))


def test_fields_tell_of_a_user_without_ratings() -> None:
    data = rated()
    without = RatingData.of(data.train, data.held_out, data.users, data.items)
    truth = data.user_fields_UF[40, :2] @ data.item_fields_IF[1:30, :2].T  # beside offsets, which no field tells
    user, item = np.full(29, 40), np.arange(1, 30)
    assert np.corrcoef(fitted(data).predict(user, item), truth)[0, 1] > 0.8
    assert np.corrcoef(fitted(without).predict(user, item), truth)[0, 1] < 0.5


def test_the_components_keep_the_products_of_the_unit_rows() -> None:
    ones = (np.random.default_rng(0).random((9, 6)) < 0.5).astype(float)
    unit = ones / np.sqrt(np.maximum(ones.sum(1, keepdims=True), 1))
    left, values, _ = np.linalg.svd(unit)
    truth = (left[:, :5] * values[:5]) @ (left[:, :5] * values[:5]).T
    found = components(sparse.csr_array(ones), 50, 0)
    assert found.shape == (9, 5)
    assert np.allclose(found @ found.T, truth)
    assert components(sparse.csr_array(ones), 0, 0).shape == (9, 0)


def test_more_samples_than_sweeps_are_refused() -> None:
    with pytest.raises(ConfigError, match="samples=40 are kept of epochs - burn_in = 10 epochs; set more epochs"):
        build(Collaborative(model="bpmf", options=SHORT | {"burn_in": 50}))
