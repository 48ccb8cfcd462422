"""Each kind of popularity is what a loop finds, and the strongest is named."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rayrec.data.context import DAY_MS
from rayrec.data.popularity import DailyCounts
from rayrec.evaluation.pages import Counters
from rayrec.evaluation.popularity import CLICK_RATE, CLICKS, NAMES, RECENT_CLICKS, item_scores, popularity_metrics, strongest
from tests.data.test_popularity import ITEMS, slow_counts, slow_sum
from tests.data.test_popularity import log as log

AT = 112 * DAY_MS + 5


def test_items_are_ordered_by_rate_by_clicks_and_by_recent_clicks(log: dict[str, np.ndarray]) -> None:
    exposures, clicks = np.array([0, 10, 20, 30, 0, 5]), np.array([0, 5, 5, 20, 0, 0])
    found = item_scores(Counters(exposures, clicks), DailyCounts.of(**log), AT, clicks_only=False)
    assert tuple(found) == NAMES
    mean = 30 / 65
    np.testing.assert_allclose(found[CLICK_RATE], [(c + 10 * mean) / (e + 10) for e, c in zip(exposures, clicks, strict=True)])
    np.testing.assert_array_equal(found[CLICKS], clicks)
    recent = [slow_sum(slow_counts(log), item, 112, 1, half_life=14) for item in range(1, ITEMS)]
    assert np.argsort(found[RECENT_CLICKS][1:]).tolist() == np.argsort(recent).tolist()
    assert CLICK_RATE not in item_scores(Counters(exposures, clicks), DailyCounts.of(**log), AT, clicks_only=True)


def test_counts_have_an_order_but_no_probabilities() -> None:
    user, clicked = np.array([1, 1, 2, 2]), np.array([True, False, True, False])
    scores = {CLICK_RATE: np.array([0.9, 0.2, 0.3, 0.4]), CLICKS: np.array([9, 2, 3, 4])}
    found = popularity_metrics(user, clicked, scores)
    assert found[CLICKS]["auc"] == found[CLICK_RATE]["auc"] == pytest.approx(roc_auc_score(clicked, scores[CLICKS]))
    assert found[CLICKS]["gauc"] == 0.5
    assert math.isnan(found[CLICKS]["log_loss"])
    assert found[CLICK_RATE]["log_loss"] > 0


def test_the_strongest_kind_depends_on_the_metric() -> None:
    metrics = {
        "ranker": {"auc": 0.9, "log_loss": 0.1},
        CLICK_RATE: {"auc": 0.5, "log_loss": 0.4},
        CLICKS: {"auc": 0.6, "log_loss": math.nan},
    }
    assert strongest(metrics, "auc") == (CLICKS, 0.6)
    assert strongest(metrics, "log_loss") == (CLICK_RATE, 0.4)
    assert math.isnan(strongest({"ranker": {"auc": 0.9}}, "auc")[1])
