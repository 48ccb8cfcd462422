"""Power against its textbook formula and against simulated experiments."""

import numpy as np
import pytest
from scipy.stats import norm

from rayrec.evaluation.experiments.gains import Gain
from rayrec.evaluation.experiments.power import detectable, fixed, power, users_needed
from rayrec.evaluation.experiments.sequential import Mixture, Monitor


def test_the_textbook_number_of_users() -> None:
    """(z of alpha / 2 + z of the power)^2 variances; two arms of equal size make twice the deviation of one user."""
    deviation, gain = 2 * 1.5, 0.02
    expected = (norm.isf(0.025) + norm.isf(0.2)) ** 2 * (deviation / np.log1p(gain)) ** 2
    needed = users_needed(gain, deviation, fixed())
    assert needed == pytest.approx(expected, rel=1e-4)
    assert power(gain, deviation, needed, fixed()) == pytest.approx(0.8)
    assert detectable(deviation, needed, fixed()) == pytest.approx(gain)
    assert power(0.0, deviation, 1000, fixed()) == pytest.approx(0.05)
    assert users_needed(0.0, deviation, fixed()) == np.inf
    assert users_needed(-0.02, deviation, fixed()) == pytest.approx(needed, rel=0.05)


def test_a_sequential_test_has_at_least_its_power() -> None:
    users, runs, deviation = 4000, 2000, 1.0
    mixture = Mixture.for_users(users)
    effect = detectable(deviation, users, mixture.radius, 0.7)
    rng, counts = np.random.default_rng(1), np.arange(400, users + 1, 400)
    steps = rng.normal(np.log1p(effect) * 400, deviation * 20, (runs, len(counts)))
    estimates, monitor = steps.cumsum(axis=1) / counts, Monitor(mixture)
    for place, count in enumerate(counts):
        monitor = monitor.after(Gain(estimates[:, place], np.full(runs, deviation / count**0.5)), np.array(count))
    assert 0.7 - 4 * np.sqrt(0.21 / runs) < monitor.decided.mean() < 0.8
    assert users_needed(effect, deviation, mixture.radius, 0.7) == pytest.approx(users, rel=1e-3)
    assert users_needed(effect, deviation, fixed(), 0.7) < users


def test_what_anybody_would_see_needs_one_user_and_what_chance_finds_is_no_gain() -> None:
    assert users_needed(10.0, 0.1, fixed()) == 1
    assert detectable(0.5, 100, fixed(), 0.03) == 0
