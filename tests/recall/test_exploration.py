"""The odds of Thompson sampling, beside draws from the distributions and beside integrals by another library."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta

from rayrec.recall.exploration import ARMS, RATES, UNIFORM, best_odds, odds

SHOWN = np.array([0, 0, 3, 9, 9, 5, 400])
CLICKED = np.array([0, 0, 1, 0, 4, 0, 31])
RATE = 0.08


def parameters(rate: float = RATE) -> tuple[np.ndarray, np.ndarray]:
    return 1 + CLICKED, 1 / rate - 1 + SHOWN - CLICKED


def test_one_draw_in_five_is_among_all_alike() -> None:
    found = odds(SHOWN, CLICKED, RATE)
    assert found == pytest.approx(0.8 * best_odds(SHOWN, CLICKED, RATE) + 0.2 / len(SHOWN))
    hopeless = odds(np.full(ARMS, 10**5), np.append(0, np.full(ARMS - 1, 10**4)), 0.1)
    assert hopeless[0] == pytest.approx(UNIFORM / ARMS)


def test_odds_are_those_of_drawing_a_rate_for_each_and_taking_the_highest() -> None:
    draws = 200_000
    wins = np.random.default_rng(0).beta(*parameters(), (draws, len(SHOWN))).argmax(1)
    found = best_odds(SHOWN, CLICKED, RATE)
    assert found.sum() == pytest.approx(1, abs=1e-12)
    error = np.sqrt(found * (1 - found) / draws)
    assert (np.abs(np.bincount(wins, minlength=len(SHOWN)) / draws - found) < 4 * error + 1e-4).all()


def test_odds_are_the_integrals() -> None:
    a, b = parameters()

    def won(arm: int) -> float:
        others = [other for other in range(len(a)) if other != arm]
        return float(quad(lambda x: beta.pdf(x, a[arm], b[arm]) * np.prod(beta.cdf(x, a[others], b[others])), 0, 1, limit=200)[0])

    assert best_odds(SHOWN, CLICKED, RATE) == pytest.approx([won(arm) for arm in range(len(a))], abs=2e-4)


def test_videos_of_which_the_same_is_known_have_the_same_best_odds() -> None:
    assert best_odds(np.zeros(50, int), np.zeros(50, int), 0.1) == pytest.approx(np.full(50, 0.02))
    assert best_odds(np.array([7]), np.array([2]), 0.1) == pytest.approx([1])


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.3, 1.0, 7.0])
def test_odds_add_up_whatever_was_counted(rate: float) -> None:
    """No clicks at all, more clicks than impressions, and very many of both."""
    found = best_odds(np.array([0, 0, 10**7, 10**7]), np.array([0, 50, 0, 10**7]), rate)
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(1)
    assert found[3] > 0.9  # everybody clicks it
    assert found[2] < found[0]
    assert RATES[0] < RATES[1]


def test_clicks_raise_the_odds_and_vain_impressions_lower_them() -> None:
    shown, clicked = np.array([5, 5, 9, 5]), np.array([1, 2, 1, 0])
    found = best_odds(shown, clicked, 0.1)
    assert found[1] > found[0] > found[2]
    assert found[0] > found[3]
