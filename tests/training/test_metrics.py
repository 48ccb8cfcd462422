"""Metrics against scikit-learn, user by user."""

import numpy as np
import pytest
from scipy import sparse
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve
from sklearn.metrics import ndcg_score, roc_auc_score

from rayrec.training import metrics
from rayrec.training.metrics import accuracy, auc, click_metrics, gauc, log_loss, ndcg_at_k, ranking_at_k, recall_at_k, reliability

Log = tuple[np.ndarray, np.ndarray, np.ndarray]  # users, clicks, probabilities


@pytest.fixture
def log() -> Log:
    rng = np.random.default_rng(0)
    user = rng.integers(0, 30, 2000)
    clicked = rng.random(2000) < 0.3
    clicked[user == 4] = False  # one who clicks nothing
    probability = np.round(rng.random(2000) * 0.8 + clicked * 0.2, 1)  # many ties
    return user, clicked, probability


def test_gauc_is_the_weighted_mean_of_the_users_aucs(log: Log) -> None:
    user, clicked, probability = log
    parts = [(roc_auc_score(clicked[user == u], probability[user == u]), (user == u).sum()) for u in range(30) if u != 4]
    assert gauc(user, clicked, probability) == pytest.approx(np.average([a for a, _ in parts], weights=[n for _, n in parts]))


def test_all_click_metrics_are_scikit_learns(log: Log) -> None:
    user, clicked, probability = log
    found = click_metrics(user, clicked, probability.astype(np.float32))
    assert found["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(clicked, probability))
    assert found["accuracy"] == sklearn_metrics.accuracy_score(clicked, probability.astype(np.float32) >= 0.5)
    inside = probability.clip(1e-7, 1 - 1e-7)
    assert found["log_loss"] == pytest.approx(sklearn_metrics.log_loss(clicked, inside), rel=1e-6)
    assert found["predicted_to_observed"] == pytest.approx(probability.mean() / clicked.mean())


@pytest.mark.parametrize("decimals", [1, 9])  # ten different predictions, or two thousand
def test_calibration_is_measured_over_quantiles_of_the_predictions(log: Log, decimals: int) -> None:
    user, clicked, probability = log
    probability = np.round((0.9 * probability + 0.1 * np.random.default_rng(1).random(2000)) ** 2, decimals)
    curve = reliability(clicked, probability)
    observed, predicted = calibration_curve(clicked, probability, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(curve.predicted, predicted)
    np.testing.assert_allclose(curve.observed, observed)
    if decimals == 9:
        assert curve.impressions.tolist() == [200] * 10
    parts = zip(predicted, observed, curve.impressions, strict=True)
    error = sum(count / 2000 * abs(said - seen) for said, seen, count in parts)
    assert click_metrics(user, clicked, probability)["calibration_error"] == pytest.approx(error)


def test_metrics_of_the_workers_predictions_put_together_are_those_of_the_whole(log: Log) -> None:
    user, clicked, probability = log
    shares = [np.arange(worker, 2000, 3) for worker in range(3)]
    user_, clicked_, probability_ = (np.concatenate([column[share] for share in shares]) for column in log)
    whole = click_metrics(user, clicked, probability)
    assert click_metrics(user_, clicked_, probability_) == pytest.approx(whole, rel=1e-12)
    mean = np.mean([auc(clicked[share], probability[share]) for share in shares])
    assert abs(mean - whole["auc"]) > 1e-6  # what a mean of the workers' AUCs would be off by


def test_metrics_of_one_label_are_not_a_number_and_no_error() -> None:
    same = np.zeros(3, dtype=bool)
    assert np.isnan(auc(same, np.array([0.1, 0.2, 0.3])))
    assert np.isnan(gauc(np.array([1, 1, 2]), same, np.array([0.1, 0.2, 0.3])))
    assert log_loss(same, np.zeros(3)) == pytest.approx(0, abs=1e-6)
    assert np.isnan(click_metrics(np.zeros(3), same, np.full(3, 0.1))["predicted_to_observed"])
    assert click_metrics(np.zeros(3), same, np.full(3, 0.1))["calibration_error"] == pytest.approx(0.1)


def test_accuracy_and_log_loss_by_hand() -> None:
    clicked, probability = np.array([True, False]), np.array([0.8, 0.6])
    assert accuracy(clicked, probability) == 0.5
    assert log_loss(clicked, probability) == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)


def test_page_metrics() -> None:
    page, relevant = np.array([5, 2, 9, 7]), np.array([2, 7, 11])
    assert recall_at_k(page, relevant) == pytest.approx(2 / 3)
    truth = np.zeros((1, 12))
    truth[0, relevant] = 1
    scores = np.zeros((1, 12))
    scores[0, page] = [4, 3, 2, 1]
    assert ndcg_at_k(page, relevant, 4) == pytest.approx(ndcg_score(truth, scores, k=4, ignore_ties=True))
    assert ndcg_at_k(page, np.array([100]), 4) == 0


def test_the_pages_of_many_users_are_measured_as_one_by_one() -> None:
    rng = np.random.default_rng(3)
    best = np.stack([rng.permutation(50)[:10] for _ in range(40)])
    relevant = rng.random((40, 50)) < rng.random((40, 1)) * 0.6
    relevant[:, 7] = True  # each has one
    found = ranking_at_k(best, sparse.csr_array(relevant.astype(np.float32)))
    for page, row, recall, ndcg in zip(best, relevant, *found, strict=True):
        assert recall == pytest.approx(recall_at_k(page, np.flatnonzero(row)))
        assert ndcg == pytest.approx(ndcg_at_k(page, np.flatnonzero(row), 10))


def test_xauc_is_the_share_of_pairs_in_order() -> None:
    """Against a loop over all pairs, with ties of labels and of values."""
    rng = np.random.default_rng(0)
    for trial in range(5):
        label, value = rng.integers(0, 6, 60) * 1.5, rng.integers(0, 4 + 20 * trial, 60) / 7
        pairs = [(i, j) for i in range(60) for j in range(60) if label[i] > label[j]]
        expected = sum(1.0 if value[i] > value[j] else 0.5 if value[i] == value[j] else 0.0 for i, j in pairs) / len(pairs)
        assert metrics.xauc(label, value) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(metrics.xauc(np.ones(5), np.arange(5.0)))
    assert metrics.xauc(np.arange(5.0), np.ones(5)) == 0.5


def test_xauc_of_yes_and_no_is_the_auc() -> None:
    rng = np.random.default_rng(1)
    label, value = rng.integers(0, 2, 300), rng.integers(0, 50, 300) / 50
    assert metrics.xauc(label, value) == pytest.approx(metrics.auc(label > 0, value), abs=1e-12)


def test_the_metrics_of_a_label_go_with_its_kind() -> None:
    label, value = np.array([0, 1, 1, 0], np.float32), np.array([0.2, 0.7, 0.4, 0.3], np.float32)
    found = metrics.label_metrics(label, value, probability=True)
    assert (found["auc"], found["labels"]) == (1, 4)
    assert found["log_loss"] == pytest.approx(metrics.log_loss(label, value))
    assert found["predicted_to_observed"] == pytest.approx(0.8)
    seconds = metrics.label_metrics(np.array([0, 4, 8], np.float32), np.array([1, 3, 2], np.float32), probability=False)
    assert seconds["xauc"] == pytest.approx(2 / 3)
    assert seconds["mean_error"] == pytest.approx(8 / 3)
    assert seconds["predicted_to_observed"] == pytest.approx(0.5)
    assert "log_loss" not in seconds
    assert metrics.label_metrics(label[:0], value[:0], probability=True)["labels"] == 0
