"""`rating_bias` against the normal equations of its loss, written out."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.models import build
from rayrec.collaborative.rating_model import RatingModel
from rayrec.collaborative.ratings import RatingData, Ratings
from rayrec.config import Collaborative
from tests.collaborative.rated import ITEMS, USERS, rated, rmse

SPLITS = Path(__file__).parents[3].parent / "shared" / "data" / "ml-100k" / "ml-100k_splits.tar.gz"


def test_the_offsets_solve_the_normal_equations() -> None:
    train = rated().train
    model = build(Collaborative(model="rating_bias", options={"user_penalty": 2, "item_penalty": 0.5}))
    model.fit(Feedback.of_ratings(rated()), Fitting())
    design = np.zeros((len(train), USERS + ITEMS))
    design[np.arange(len(train)), train.user] = design[np.arange(len(train)), USERS + train.item] = 1
    mean = train.rating.mean(dtype=np.float64)
    penalty = np.diag([2.0] * USERS + [0.5] * ITEMS)
    offsets = np.linalg.solve(design.T @ design + penalty, design.T @ (train.rating - mean))
    truth = mean + offsets[:USERS, None] + offsets[USERS:]
    assert np.allclose(model.scores(np.arange(USERS), Feedback.of_ratings(rated()).likes), truth, atol=1e-4)
    assert np.isclose(model.scores(np.array([0]), Feedback.of_ratings(rated()).likes[[0]])[0, 0], mean)


def test_beside_any_item_the_best_rated_ones_come_first() -> None:
    model = build(Collaborative(model="rating_bias"))
    model.fit(Feedback.of_ratings(rated()), Fitting())
    order = np.argsort(model.scores(np.array([0]), Feedback.of_ratings(rated()).likes[[0]])[0])
    assert (np.argsort(model.similar(np.array([4, 7])), axis=1) == order).all()


def test_movielens_100k_as_others_have_measured_it() -> None:
    """A bias model has an RMSE of .9548 on the published split u1; the penalties are not theirs."""
    if not SPLITS.exists():
        pytest.skip(f"MovieLens 100K is not at {SPLITS}: nothing is held to figures of real people")
    with tarfile.open(SPLITS) as archive:
        train, test = (
            Ratings.of(*np.loadtxt(file, dtype=np.int64)[:, :3].T)
            for name in ("u1.base", "u1.test")
            if (file := archive.extractfile(name))
        )
    model = build(Collaborative(model="rating_bias"))
    assert isinstance(model, RatingModel)
    model.fit(Feedback.of_ratings(RatingData.of(train, test, 944, 1683)), Fitting())
    assert rmse(model.predict(test.user, test.item), test) == pytest.approx(0.9548, abs=0.002)
