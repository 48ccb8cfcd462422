import numpy as np
import pytest

from rayrec.datasets.synthetic.choice import (
    BIAS,
    DISCOUNT,
    SLOPE,
    Tastes,
    click_probability,
    expected_watch_seconds,
    like_probability,
    make_tastes,
    watch_seconds,
)


def test_the_formula_of_the_docstring() -> None:
    interest = np.zeros((2, 3, 4))
    interest[1, 2] = [1.0, 0.0, 0.5, -0.2]
    tastes = Tastes(interest, np.array([[1, 0, 0], [0.5, 0.2, 0.3]]))
    shown = np.array([[0, 0, 0], [0, 2, 3], [1, 1, 1]])  # the second misleads
    affinity = tastes.affinity(1, 2, shown)
    assert affinity == pytest.approx([1.0, 0.5 * 1 + 0.2 * 0.5 - 0.3 * 0.2, 0])
    assert tastes.affinity(np.array([0, 1]), 2, shown) == pytest.approx(np.array([[0, 0, 0], affinity]))
    chance = click_probability(affinity, np.array([0.3, 0, 0]), np.array([0, 4, 9]))
    logits = [BIAS + SLOPE + 0.3, BIAS + SLOPE * affinity[1] - 4 * DISCOUNT, BIAS - 9 * DISCOUNT]
    assert np.log(chance / (1 - chance)) == pytest.approx(logits)


def test_watch_time_grows_with_affinity_and_stays_below_the_duration() -> None:
    noise = np.zeros(3)
    watched = watch_seconds(np.array([-0.5, 0.0, 1.0]), np.full(3, 5.0), noise)
    assert (np.diff(watched) > 0).all()
    assert (watched > 0).all()
    assert (watched < 5).all()
    assert watch_seconds(np.zeros(1), np.array([3.0]), noise[:1]) / 3 > watch_seconds(np.zeros(1), np.array([6.0]), noise[:1]) / 6


def test_the_expected_seconds_are_the_mean_over_the_noise() -> None:
    affinity, duration = np.array([-0.5, 0.3, 2.0]), np.array([3.1, 4.5, 5.9])
    noise = np.random.default_rng(0).normal(size=(200_000, 1))
    assert expected_watch_seconds(affinity, duration) == pytest.approx(watch_seconds(affinity, duration, noise).mean(0), rel=2e-3)


def test_taste_quality_and_generosity_raise_likes() -> None:
    affinity, quality, likes = np.array([0.0, 1.0, 0.0, 0.0]), np.array([0.0, 0.0, 0.5, 0.0]), np.array([0.0, 0.0, 0.0, 1.0])
    chance = like_probability(affinity, quality, likes)
    assert np.log(chance / (1 - chance)) == pytest.approx([-2.6, -2.6 + 1.2, -2.6 + 1.5 * 0.5, -2.6 + 1])


def test_tastes_are_sparse_and_drift() -> None:
    tastes = make_tastes(np.full((500, 24), 1 / 24), np.arange(24) // 2, days=7, rng=np.random.default_rng(1))
    liked = tastes.interest > 0.45
    assert 2 <= liked[:, 0].sum(axis=1).mean() <= 4
    assert tastes.weight.sum(axis=1) == pytest.approx(1)
    assert tastes.weight.max(axis=1).mean() > 0.55  # people differ in what moves them

    def likeness(day: int) -> float:
        return float(np.corrcoef(tastes.interest[:, 0].ravel(), tastes.interest[:, day].ravel())[0, 1])

    assert 1 > likeness(1) > likeness(3) > likeness(6) > 0.5
