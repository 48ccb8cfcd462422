"""Gibbs draws against their formulas, a row at a time."""

import numpy as np

from rayrec.collaborative.gaussian_rows import GaussianRows, draw_gaussians, draw_wishart
from rayrec.collaborative.ratings import Side
from tests.collaborative.rated import ITEMS, USERS, rated


def test_the_rows_have_the_mean_and_the_covariance_of_their_posterior() -> None:
    """Many draws of the same rows, against mean and covariance from a loop over the ratings."""
    train, generator = rated().train, np.random.default_rng(0)
    rows = GaussianRows(Side.of(train.user, train.item, USERS), [], 3, generator)
    design_IK, mean_UK = generator.normal(size=(ITEMS, 3)), generator.normal(size=(USERS, 3))
    precision_KK, target_N = np.diag([1.0, 2.0, 4.0]), train.rating.astype(np.float64)
    draws = []
    rows.draw_prior = lambda: None  # type: ignore[method-assign]
    rows.mean_RK, rows.precision_KK = mean_UK, precision_KK
    for _ in range(3000):
        rows.draw(design_IK, target_N, 2.5)
        draws.append(rows.row_RK.copy())
    found = np.stack(draws)
    for user in (1, 17, USERS - 1):
        precision, right = precision_KK.copy(), precision_KK @ mean_UK[user]
        for number in np.flatnonzero(train.user == user):
            item = design_IK[train.item[number]]
            precision += 2.5 * np.outer(item, item)
            right += 2.5 * item * target_N[number]
        covariance = np.linalg.inv(precision)
        assert np.allclose(found[:, user].mean(0), covariance @ right, atol=5 * np.sqrt(covariance.max() / 3000))
        assert np.allclose(np.cov(found[:, user].T), covariance, atol=0.1 * covariance.max())


def test_the_prior_is_that_of_rows_which_are_linear_in_their_facts() -> None:
    generator = np.random.default_rng(1)
    facts_RF, coefficient_FK = generator.normal(size=(4000, 3)), np.array([[1.0, -2.0], [0.5, 0.0], [0.0, 0.0]])
    empty = np.zeros(0, np.int64)
    rows = GaussianRows(Side.of(empty, empty, 4000), [facts_RF], 2, generator)
    rows.row_RK = 0.7 + facts_RF @ coefficient_FK + generator.normal(size=(4000, 2)) * [0.5, 0.2]
    means, precisions = [], []
    for _ in range(50):
        rows.draw_prior()
        means.append(rows.mean_RK)
        precisions.append(rows.precision_KK)
    assert np.allclose(np.mean(means, axis=0), 0.7 + facts_RF @ coefficient_FK, atol=0.1)
    assert np.allclose(np.mean(precisions, axis=0), np.diag([4, 25]), atol=1.5)


def test_draws_of_gaussians_and_wisharts_have_their_means() -> None:
    generator = np.random.default_rng(2)
    precision_KK, right_K = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([1.0, -1.0])
    found_RK = draw_gaussians(np.tile(precision_KK, (20_000, 1, 1)), np.tile(right_K, (20_000, 1)), generator)
    assert np.allclose(found_RK.mean(0), np.linalg.solve(precision_KK, right_K), atol=0.03)
    assert np.allclose(np.cov(found_RK.T), np.linalg.inv(precision_KK), atol=0.05)
    scale_KK = np.array([[0.2, 0.05], [0.05, 0.1]])
    drawn = np.mean([draw_wishart(7, scale_KK, generator) for _ in range(5000)], axis=0)
    assert np.allclose(drawn, 7 * scale_KK, atol=0.03)
