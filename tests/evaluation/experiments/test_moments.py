"""Moments are those that NumPy computes of all rows together, however they were collected."""

import numpy as np
import pytest

from rayrec.evaluation.experiments.moments import Moments
from tests.evaluation.experiments.people import people


def same(found: Moments, expected: Moments) -> None:
    for name in ("count", "mean", "scatter"):
        assert np.broadcast_to(getattr(found, name), getattr(expected, name).shape) == pytest.approx(getattr(expected, name))


def test_they_are_numpys() -> None:
    rows = people(np.random.default_rng(1), 50)
    found = Moments.of(rows)
    assert found.count == 50
    assert found.mean == pytest.approx(rows.mean(0))
    assert found.covariance == pytest.approx(np.cov(rows.T))


def test_moments_of_parts_add_up() -> None:
    rows = people(np.random.default_rng(2), 50) + 1e6
    parts = [Moments.of(rows[:1]), Moments.of(rows[1:30]), Moments.of(rows[30:])]
    same(parts[0] + parts[1] + parts[2], Moments.of(rows))
    nobody = Moments(np.array(0), np.zeros(3), np.zeros((3, 3)))
    same(nobody + Moments.of(rows), Moments.of(rows))
    same(nobody + nobody, nobody)
    assert not Moments.of(rows[:1]).covariance.any()


def test_running_moments_are_those_of_the_first_rows() -> None:
    rows = people(np.random.default_rng(3), 4, 50) + 1000
    counts = np.array([1, 2, 17, 49])
    found = Moments.running(rows, counts)
    for place, count in enumerate(counts):
        same(Moments(found.count[:, place], found.mean[:, place], found.scatter[:, place]), Moments.of(rows[:, :count]))


def test_an_arm_without_users_adds_nothing() -> None:
    some, nobody = Moments.of(np.random.default_rng(0).random((5, 2))), Moments.of(np.zeros((0, 2)))
    for both in (some + nobody, nobody + some):
        np.testing.assert_allclose(both.mean, some.mean)
        np.testing.assert_allclose(both.scatter, some.scatter)
