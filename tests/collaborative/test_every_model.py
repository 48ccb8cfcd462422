"""Every model is found by itself, and keeps the promises of `CollaborativeModel`."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
from scipy import sparse

from rayrec.collaborative import saving
from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import CollaborativeModel, Fitting, clicked_alone
from rayrec.collaborative.models import NAMES, build
from rayrec.collaborative.ratings import RatingData, Ratings
from rayrec.config import Collaborative

USERS, ITEMS = 40, 30
# What a model needs where its defaults are for larger logs.
OPTIONS: dict[str, dict[str, Any]] = {
    "bpmf": {"size": 4, "epochs": 30, "burn_in": 10, "samples": 10},
    "bpr": {"epochs": 15, "batch_size": 64},
    "ease": {"content": {"image": 5}},
    "funk_svd": {"size": 4},
    "gf_cf": {"factors": 8},
    "lightgcn": {"epochs": 15, "batch_size": 64},
    "mixed": {"parts": [{"model": "item_cf"}, {"model": "pure_svd", "options": {"factors": 8}}]},
    "multimodal_gcn": {"epochs": 15, "batch_size": 16, "modalities": ["image"]},
    "pure_svd": {"factors": 8},
    "two_tower": {"epochs": 15, "batch_size": 64, "modalities": ["image"]},
}


def feedback() -> Feedback:
    """People who click items of their kind and rate them higher, in a log with a user and an item without any click."""
    rng = np.random.default_rng(0)
    same = np.arange(USERS)[:, None] % 3 == np.arange(ITEMS) % 3
    likes = (rng.random((USERS, ITEMS)) < np.where(same, 0.5, 0.05)).astype(np.float32)
    likes[0] = likes[7] = likes[:, 0] = likes[:, 4] = 0
    held_out = np.where(rng.random(likes.shape) < 0.1, likes, 0)
    vectors = rng.standard_normal((ITEMS, 5)).astype(np.float32)
    vectors[0] = 0
    points = np.clip(np.where(same, 4, 2) + rng.standard_normal(likes.shape), 1, 5).astype(np.float32)
    train, later = (
        Ratings.of(user, item, points[user, item]) for user, item in (np.nonzero(likes - held_out), np.nonzero(held_out))
    )
    ratings = RatingData.of(train, later, USERS, ITEMS)
    return Feedback(sparse.csr_array(likes - held_out), sparse.csr_array(held_out), {"image": vectors}, ratings)


def fitted(name: str) -> tuple[Collaborative, CollaborativeModel]:
    settings = Collaborative(model=name, options=OPTIONS.get(name, {}))
    model = build(settings)
    epochs = model.fit(feedback(), Fitting(seed=5))
    assert bool(epochs) == bool(model.epochs)
    return settings, model


@pytest.mark.parametrize("name", NAMES)
def test_a_model_scores_all_items_and_a_saved_one_likewise(name: str, tmp_path: Path) -> None:
    settings, model = fitted(name)
    user, likes = np.array([0, 3, 7, 12]), feedback().likes
    some = clicked_alone(np.array([2]), ITEMS)
    rows = sparse.vstack([some, likes[user[1:]]], format="csr")  # the first is a user whom training did not see
    found, similar = model.scores(user, rows), model.similar(np.arange(1, ITEMS))
    assert found.shape == (4, ITEMS)
    assert similar.shape == (ITEMS - 1, ITEMS)
    assert found.dtype == similar.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.isfinite(similar).all()
    saving.save(pafs.LocalFileSystem(), str(tmp_path / "model"), settings, model)
    _, loaded = saving.load(pafs.LocalFileSystem(), str(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.scores(user, rows), found)
    np.testing.assert_array_equal(loaded.similar(np.arange(1, ITEMS)), similar)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_model(name: str) -> None:
    user, likes = np.arange(1, USERS), feedback().likes[1:]
    np.testing.assert_allclose(fitted(name)[1].scores(user, likes), fitted(name)[1].scores(user, likes), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "pop"])
def test_a_model_has_learned_who_likes_what(name: str) -> None:
    _, model = fitted(name)
    known = feedback()
    user = np.flatnonzero(np.diff(known.likes.indptr) > 2)
    found = model.scores(user, known.likes[user])
    same = user[:, None] % 3 == np.arange(ITEMS) % 3
    some = np.diff(known.likes.T.tocsr().indptr) > 0
    assert found[same & some].mean() > found[~same & some].mean()
