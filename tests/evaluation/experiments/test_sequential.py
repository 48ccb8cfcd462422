"""The sequential test against integrals, and in experiments that are looked at after every user."""

import numpy as np
import pytest
from scipy import integrate, stats

from rayrec.evaluation.experiments.gains import Gain, gain
from rayrec.evaluation.experiments.moments import Moments
from rayrec.evaluation.experiments.sequential import ALPHA, FIRST, Mixture, Monitor
from tests.evaluation.experiments.people import people


@pytest.mark.parametrize(("z", "users"), [(0.0, 50), (1.3, 400), (-4.0, 400), (3.0, 7)])
def test_evidence_is_a_ratio_of_likelihoods(z: float, users: int) -> None:
    spread, error = 0.02, users**-0.5  # of an estimate, one user's deviation being 1
    seen = z * error

    def likelihood(true: float) -> float:
        return float(stats.norm.pdf(seen, true, error) * stats.norm.pdf(true, 0, spread**0.5))

    average = integrate.quad(likelihood, -2, 2, points=[seen, 0], limit=200)[0]
    evidence = np.exp(Mixture(spread).log_evidence(np.array(z), np.array(users)))
    assert evidence == pytest.approx(average / stats.norm.pdf(seen, 0, error), rel=1e-5)


def test_the_interval_ends_where_the_evidence_is_enough() -> None:
    mixture = Mixture(0.01)
    for users in (10, 1000, 100_000):
        assert mixture.log_evidence(mixture.radius(users), np.array(users)) == pytest.approx(-np.log(ALPHA))


def test_the_mixture_is_the_best_one_for_so_many_users() -> None:
    best = Mixture.for_users(5000)
    others = [Mixture(best.spread * factor).radius(5000) for factor in (0.5, 0.9, 1.1, 2.0)]
    assert (best.radius(5000) < np.array(others)).all()
    assert best.radius(5000) == pytest.approx(3.0, abs=0.05)  # standard errors, where a single look needs 1.96
    assert best.radius(10_000) == pytest.approx(best.radius(5000), rel=0.03)


def looked_at_after_every_user(runs: int, users: int, more: float, seed: int) -> tuple[Monitor, np.ndarray]:
    """What is known at the end of experiments [runs], and whether a fixed test ever called a gain."""
    rng, counts = np.random.default_rng(seed), np.arange(FIRST // 2, users + 1)
    control, treatment = (Moments.running(people(rng, runs, users, gain=given)[..., :2], counts) for given in (0.0, more))
    found = gain(control, treatment)
    monitor = Monitor(Mixture.for_users(users))
    for place, count in enumerate(counts):
        monitor = monitor.after(Gain(found.log_ratio[:, place], found.error[:, place]), np.array(2 * count))
    return monitor, (found.p_value <= ALPHA).any(axis=1)


def test_false_alarms_are_rare_although_every_user_is_looked_at() -> None:
    monitor, fixed = looked_at_after_every_user(runs=300, users=1500, more=0.0, seed=1)
    assert monitor.decided.mean() <= ALPHA
    assert np.array_equal(monitor.decided, (monitor.interval.low > 0) | (monitor.interval.high < 0))
    assert fixed.mean() > 5 * ALPHA  # which is what the test is for


def test_gains_are_found_and_covered() -> None:
    monitor, _ = looked_at_after_every_user(runs=200, users=1500, more=0.15, seed=2)
    assert monitor.decided.mean() > 0.8
    assert ((monitor.interval.low <= 0.15) & (monitor.interval.high >= 0.15)).mean() >= 1 - ALPHA


def test_nothing_is_said_before_there_are_enough_users() -> None:
    fresh = Monitor(Mixture.for_users(1000))
    seen = Gain(np.array([1.0, np.nan, 1.0]), np.array([0.01, np.nan, 0.0]))
    later = fresh.after(seen, np.array([FIRST - 1, FIRST, FIRST]))
    assert later.p_value.tolist() == [1, 1, 1]
    assert later.interval.low.tolist() == [-1, -1, -1]
    sure = fresh.after(Gain(np.array(1.0), np.array(0.01)), np.array(FIRST))
    assert sure.after(Gain(np.array(0.0), np.array(0.01)), np.array(2 * FIRST)).p_value == sure.p_value < 1e-6
