"""`rating_bias` against the normal equations of its loss, written out."""

import numpy as np

from rayrec.collaborative.model import Fitting
from rayrec.collaborative.models import build
from rayrec.config import Collaborative
from tests.collaborative.rated import ITEMS, USERS, feedback, rated


def test_the_offsets_solve_the_normal_equations() -> None:
    train = rated().train
    model = build(Collaborative(model="rating_bias", options={"user_penalty": 2, "item_penalty": 0.5}))
    model.fit(feedback(rated()), Fitting())
    design = np.zeros((len(train), USERS + ITEMS))
    design[np.arange(len(train)), train.user] = design[np.arange(len(train)), USERS + train.item] = 1
    mean = train.rating.mean(dtype=np.float64)
    penalty = np.diag([2.0] * USERS + [0.5] * ITEMS)
    offsets = np.linalg.solve(design.T @ design + penalty, design.T @ (train.rating - mean))
    truth = mean + offsets[:USERS, None] + offsets[USERS:]
    assert np.allclose(model.scores(np.arange(USERS), feedback(rated()).likes), truth, atol=1e-4)
    assert np.isclose(model.scores(np.array([0]), feedback(rated()).likes[[0]])[0, 0], mean)


def test_beside_any_item_the_best_rated_ones_come_first() -> None:
    model = build(Collaborative(model="rating_bias"))
    model.fit(feedback(rated()), Fitting())
    order = np.argsort(model.scores(np.array([0]), feedback(rated()).likes[[0]])[0])
    assert (np.argsort(model.similar(np.array([4, 7])), axis=1) == order).all()
