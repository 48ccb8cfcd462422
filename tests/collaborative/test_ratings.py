"""Ratings against pairs that were counted by hand, and least squares against a loop."""

import numpy as np

from rayrec.collaborative.ratings import Ratings, Side
from tests.collaborative.rated import ITEMS, USERS, rated


def test_the_last_rating_of_a_pair_counts_and_unknown_users_and_items_do_not() -> None:
    user, item = np.array([1, 2, 0, 1, 3, 2]), np.array([5, 4, 4, 5, 0, 3])
    found = Ratings.of(user, item, np.array([3, 0, 1, 5, 2, np.nan]))
    assert list(zip(found.user.tolist(), found.item.tolist(), found.rating.tolist(), strict=True)) == [(2, 4, 0.0), (1, 5, 5.0)]
    assert found.range.tolist() == [0, 5]
    matrix = found.matrix(4, 6, found.rating)
    assert (matrix.nnz, matrix[2, 4], matrix[1, 5]) == (2, 0, 5)


def test_normal_equations() -> None:
    train, generator = rated().train, np.random.default_rng(0)
    design, target = generator.normal(size=(ITEMS, 3)), generator.normal(size=len(train))
    gram, right = Side.of(train.user, train.item, USERS).normal_equations(slice(7, USERS), design, target)
    for row in (0, 13, USERS - 8):
        mine = train.user == row + 7
        x = design[train.item[mine]]
        assert np.allclose(gram[row], x.T @ x)
        assert np.allclose(right[row], x.T @ target[mine])
