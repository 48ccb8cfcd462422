"""Metrics against scikit-learn, user by user."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score

from rayrec.training.metrics import accuracy, auc, gauc, log_loss, ndcg_at_k, recall_at_k


@pytest.fixture
def log():
    rng = np.random.default_rng(0)
    user = rng.integers(0, 30, 2000)
    clicked = rng.random(2000) < 0.3
    clicked[user == 4] = False  # one who clicks nothing
    probability = np.round(rng.random(2000) * 0.8 + clicked * 0.2, 1)  # many ties
    return user, clicked, probability


def test_gauc_is_the_weighted_mean_of_the_users_aucs(log):
    user, clicked, probability = log
    parts = [(roc_auc_score(clicked[user == u], probability[user == u]), (user == u).sum()) for u in range(30) if u != 4]
    assert gauc(user, clicked, probability) == pytest.approx(np.average([a for a, _ in parts], weights=[n for _, n in parts]))


def test_metrics_of_one_label_are_not_a_number_and_no_error():
    same = np.zeros(3, dtype=bool)
    assert np.isnan(auc(same, np.array([0.1, 0.2, 0.3])))
    assert np.isnan(gauc(np.array([1, 1, 2]), same, np.array([0.1, 0.2, 0.3])))
    assert log_loss(same, np.zeros(3)) == pytest.approx(0, abs=1e-6)


def test_accuracy_and_log_loss_by_hand():
    clicked, probability = np.array([True, False]), np.array([0.8, 0.6])
    assert accuracy(clicked, probability) == 0.5
    assert log_loss(clicked, probability) == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)


def test_page_metrics():
    page, relevant = np.array([5, 2, 9, 7]), np.array([2, 7, 11])
    assert recall_at_k(page, relevant) == pytest.approx(2 / 3)
    truth = np.zeros((1, 12))
    truth[0, relevant] = 1
    scores = np.zeros((1, 12))
    scores[0, page] = [4, 3, 2, 1]
    assert ndcg_at_k(page, relevant, 4) == pytest.approx(ndcg_score(truth, scores, k=4, ignore_ties=True))
    assert ndcg_at_k(page, np.array([100]), 4) == 0
