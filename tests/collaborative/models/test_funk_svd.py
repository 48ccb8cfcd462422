"""`funk_svd` against Funk's step, taken rating after rating, and on a world of two factors."""

import numpy as np
import torch

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.models import build
from rayrec.collaborative.models.funk_svd import FunkSVD, TrainableFactors
from rayrec.collaborative.rating_model import RatingModel
from rayrec.config import Collaborative
from tests.collaborative.rated import rated, rmse


def test_a_batch_of_one_takes_the_step_of_the_paper() -> None:
    options = FunkSVD.Options(size=3, batch_size=1, learning_rate=0.05, penalty=0.2)
    trainable = TrainableFactors(rated(), options, Fitting(seed=2))
    users, items = (table.weight.detach().numpy().astype(np.float64) for table in (trainable.model.users, trainable.model.items))
    users, items = users.copy(), items.copy()
    for number, (share, examples) in enumerate(trainable.batches(1, 0)):
        assert share is not None
        trainable.optimizer.zero_grad()
        trainable.losses(share, examples)[0].backward()
        trainable.optimizer.step()
        u, i, above = (int(share[0]), int(share[1]), float(share[2]))
        p, q = users[u].copy(), items[i].copy()
        error = above - p[0] - q[0] - p[1:] @ q[1:]
        users[u] += 0.05 * (error * np.array([1, *q[1:]]) - 0.2 * p)
        items[i] += 0.05 * (error * np.array([1, *p[1:]]) - 0.2 * q)
        if number == 30:
            break
    assert np.allclose(trainable.model.users.weight.detach().numpy(), users, atol=1e-5)
    assert np.allclose(trainable.model.items.weight.detach().numpy(), items, atol=1e-5)


def test_it_finds_two_factors_and_the_same_seed_finds_the_same() -> None:
    data = rated()
    found: list[RatingModel] = []
    for _ in range(2):
        torch.manual_seed(len(found))
        model = build(
            Collaborative(
                model="funk_svd", options={"size": 4, "epochs": 60, "batch_size": 32, "learning_rate": 0.02, "penalty": 0.06}
            )
        )
        assert isinstance(model, RatingModel)
        assert len(model.fit(Feedback.of_ratings(data), Fitting(seed=1))) == 60
        found.append(model)
    bias = build(Collaborative(model="rating_bias"))
    assert isinstance(bias, RatingModel)
    bias.fit(Feedback.of_ratings(data), Fitting())
    held_out = data.held_out
    assert rmse(found[0].predict(held_out.user, held_out.item), held_out) < 0.7 * rmse(
        bias.predict(held_out.user, held_out.item), held_out
    )
    assert (found[0].user_US == found[1].user_US).all()
    assert (found[0].item_IS == found[1].item_IS).all()
    assert not found[0].user_US[0, 2:].any()  # nobody has seen this user
