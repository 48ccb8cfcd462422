"""Shares of users that are not as they should be."""

import numpy as np
import pytest
from scipy import stats

from rayrec.evaluation.experiments.mismatch import STRENGTH, mismatch_log_evidence, mismatch_p_value


def test_the_single_look_is_scipys() -> None:
    counts, shares = np.array([480, 540, 980]), np.array([1, 1, 2])
    expected = stats.chisquare(counts, counts.sum() * shares / 4).pvalue
    assert mismatch_p_value(counts, shares) == pytest.approx(expected)


def test_evidence_is_the_product_of_what_was_predicted_user_by_user() -> None:
    shares, order = np.array([0.2, 0.8]), np.random.default_rng(1).permutation([0] * 30 + [1] * 70)
    counts, log = np.zeros(2), 0.0
    for arm in order:
        log += np.log((STRENGTH * shares[arm] + counts[arm]) / (STRENGTH + counts.sum()) / shares[arm])
        counts[arm] += 1
    assert mismatch_log_evidence(counts, shares) == pytest.approx(log)
    assert mismatch_log_evidence(np.zeros(2), shares) == 0


def test_evidence_may_be_looked_at_after_every_user() -> None:
    rng, shares = np.random.default_rng(2), np.array([0.5, 0.5])
    alarms = 0
    for _ in range(100):
        first = np.cumsum(rng.random(500) < 0.5)
        evidence = [mismatch_log_evidence(np.array([one, users - one]), shares) for users, one in enumerate(first, 1)]
        alarms += max(evidence) > np.log(20)
    assert alarms <= 5
    assert mismatch_log_evidence(np.array([5000, 5400]), shares) > np.log(20)


@pytest.mark.parametrize("shares", [[1.0, 0.0], [0.5, 0.4, 0.1], [-1.0, 2.0]])
def test_shares_that_are_none(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="each of two or more arms needs one above 0"):
        mismatch_p_value(np.array([5, 5]), np.array(shares))
