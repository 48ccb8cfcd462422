"""Gains against SciPy, the bootstrap, regression, and experiments whose gain is known."""

import numpy as np
import pytest
from scipy import stats

from rayrec.evaluation.experiments.gains import Gain, bootstrap, gain
from rayrec.evaluation.experiments.moments import Moments
from tests.evaluation.experiments.people import people


def test_small_gains_in_a_mean_are_tested_as_by_welch() -> None:
    rng = np.random.default_rng(1)
    arms = [np.stack([rng.normal(100, 5, 4000), np.ones(4000)], axis=1) for _ in range(2)]
    found = gain(*map(Moments.of, arms))
    welch = stats.ttest_ind(arms[1][:, 0], arms[0][:, 0], equal_var=False)
    assert float(found.z) == pytest.approx(welch.statistic, abs=2e-3)
    assert float(found.p_value) == pytest.approx(welch.pvalue, abs=2e-3)
    assert float(found.relative) == pytest.approx(arms[1][:, 0].mean() / arms[0][:, 0].mean() - 1)
    low, high = found.interval(0.9)
    interval = welch.confidence_interval(0.9)
    assert (float(low), float(high)) == pytest.approx((interval.low / 100, interval.high / 100), abs=2e-5)


def test_ratios_have_the_intervals_of_the_bootstrap() -> None:
    rng = np.random.default_rng(2)
    control, treatment = people(rng, 1500), people(rng, 3000, gain=0.1)
    found = gain(Moments.of(control[:, :2]), Moments.of(treatment[:, :2])).interval(0.95)
    drawn = bootstrap(control, treatment, 0.95, 4000, rng)
    assert (float(found.low), float(found.high)) == pytest.approx((drawn.low, drawn.high), abs=0.004)


def test_intervals_cover_the_gain_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    control, treatment = (Moments.of(people(rng, 2000, 400, gain=more)) for more in (0.0, 0.05))
    low, high = gain(control, treatment).interval(0.9)
    covered = ((low <= 0.05) & (high >= 0.05)).mean()
    assert covered == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 2000))


def test_covariates_take_noise_away_and_no_gain() -> None:
    rng = np.random.default_rng(4)
    arms = [np.insert(people(rng, 500, 800, gain=more)[..., [0, 2]], 1, 1.0, axis=-1) for more in (0.0, 0.05)]  # seconds for a user
    moments = [Moments.of(arm) for arm in arms]
    with_them = gain(*moments)
    without = gain(*(Moments.of(arm[..., :2]) for arm in arms))
    assert with_them.error.mean() < 0.9 * without.error.mean()
    for found in (with_them, without):
        deviation = found.log_ratio.std()
        assert found.log_ratio.mean() == pytest.approx(np.log(1.05), abs=4 * deviation / np.sqrt(500))
        assert found.error.mean() == pytest.approx(deviation, rel=0.12)


def test_covariates_do_what_a_regression_does() -> None:
    """With arms of one size, the adjusted difference of means is the one that a regression on arm and covariate finds, nearly."""
    rng = np.random.default_rng(5)
    arms = [np.stack([rng.normal(100, 1, 3000), np.ones(3000), rng.normal(7, 1, 3000)], axis=1) for _ in range(2)]
    for arm in arms:
        arm[:, 0] += 0.8 * arm[:, 2]
    found = gain(*map(Moments.of, arms))
    rows = np.concatenate(arms)
    design = np.stack([np.ones(6000), np.repeat([0, 1], 3000), rows[:, 2]], axis=1)
    slope = np.linalg.lstsq(design, rows[:, 0], rcond=None)[0][1]
    assert float(found.log_ratio) == pytest.approx(slope / rows[:, 0].mean(), abs=1e-5)


def test_covariates_that_say_nothing_change_nothing() -> None:
    rows = people(np.random.default_rng(6), 2, 100)[..., :2]
    constant = np.concatenate([rows, np.full((2, 100, 1), 3.0)], axis=-1)
    found, plain = (gain(*map(Moments.of, given)) for given in (constant, rows))
    assert float(found.log_ratio) == pytest.approx(float(plain.log_ratio))
    assert float(found.error) == pytest.approx(float(plain.error))


def test_an_arm_without_anything_watched_has_no_gain_yet() -> None:
    rows = people(np.random.default_rng(7), 2, 10)[..., :2]
    rows[1, :, 0] = 0
    found = gain(*map(Moments.of, rows))
    assert np.isnan(found.error)
    assert np.isnan(found.relative)
    nobody = Moments(np.array(0), np.zeros(2), np.zeros((2, 2)))
    assert np.isnan(gain(Moments.of(rows[0]), nobody).error)
    assert float(Gain(np.array(0.0), np.array(0.0)).z) == 0
