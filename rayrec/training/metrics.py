"""Offline metrics of click predictions and of ranked lists. All are exact, since they are computed from all predictions at once."""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.stats import kendalltau
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score


def auc(clicked: np.ndarray, probability: np.ndarray) -> float:
    """Area under the ROC curve; NaN when all labels are the same."""
    if clicked.all() or not clicked.any():
        return float("nan")
    return float(roc_auc_score(clicked, probability))


def gauc(user: np.ndarray, clicked: np.ndarray, probability: np.ndarray) -> float:
    """The mean of the AUCs of single users, weighted by their impressions, without users whose labels are all the same (Zhu et al.,
    "Optimized Cost per Click in Taobao Display Advertising", 2017).

    All users are measured in one pass: the AUC of a user is a rank-sum, with ties at their mean rank.
    """
    order = np.lexsort((probability, user))
    _, user = np.unique(user[order], return_inverse=True)
    clicked, probability = clicked[order].astype(np.float64), probability[order]
    start = np.searchsorted(user, user)
    new_value = np.r_[True, (user[1:] != user[:-1]) | (probability[1:] != probability[:-1])]
    tie = np.cumsum(new_value) - 1
    first = np.flatnonzero(new_value)
    last = np.r_[first[1:], len(user)] - 1
    rank = (first[tie] + last[tie]) / 2 - start + 1
    impressions = np.bincount(user)
    clicks = np.bincount(user, weights=clicked)
    pairs = clicks * (impressions - clicks)
    rank_sum = np.bincount(user, weights=rank * clicked)
    some = pairs > 0
    if not some.any():
        return float("nan")
    each = (rank_sum[some] - clicks[some] * (clicks[some] + 1) / 2) / pairs[some]
    return float(np.average(each, weights=impressions[some]))


def log_loss(clicked: np.ndarray, probability: np.ndarray) -> float:
    return float(sklearn_log_loss(clicked, np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7), labels=[0, 1]))


def accuracy(clicked: np.ndarray, probability: np.ndarray) -> float:
    """The share of impressions that are classified correctly with a threshold of 0.5."""
    return float(np.mean((probability >= 0.5) == clicked.astype(bool)))


class Reliability(NamedTuple):
    """Impressions in bins of about equal size by their prediction, [bins] each. The two CTRs of a calibrated model are close."""

    predicted: np.ndarray  # mean click probability
    observed: np.ndarray  # share of clicks
    impressions: np.ndarray


def reliability(clicked: np.ndarray, probability: np.ndarray, bins: int = 10) -> Reliability:
    """The edges of the bins are quantiles of the predictions. Equal predictions share a bin, so there may be fewer than `bins`."""
    probability = probability.astype(np.float64)
    inner = np.quantile(probability, np.arange(1, bins) / bins)
    _, number = np.unique(np.searchsorted(inner, probability), return_inverse=True)
    impressions = np.bincount(number)
    predicted, observed = (np.bincount(number, weights=values) / impressions for values in (probability, clicked))
    return Reliability(predicted, observed, impressions)


def calibration_error(clicked: np.ndarray, probability: np.ndarray, bins: int = 10) -> float:
    """The expected calibration error: the sum over bins of impressions / all * |predicted CTR - observed CTR|."""
    found = reliability(clicked, probability, bins)
    return float(np.average(np.abs(found.predicted - found.observed), weights=found.impressions))


def predicted_to_observed(clicked: np.ndarray, probability: np.ndarray) -> float:
    """Predicted clicks divided by observed clicks, ideally 1; NaN without a click."""
    return float(probability.sum(dtype=np.float64) / clicked.sum(dtype=np.float64)) if clicked.any() else float("nan")


def click_metrics(user: np.ndarray, clicked: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    return {
        **basic_metrics(clicked, probability),
        "gauc": gauc(user, clicked, probability),
        "calibration_error": calibration_error(clicked, probability),
        "predicted_to_observed": predicted_to_observed(clicked, probability),
    }


def basic_metrics(clicked: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """The metrics that are also measured on parts of the test split."""
    return {
        "auc": auc(clicked, probability),
        "log_loss": log_loss(clicked, probability),
        "accuracy": accuracy(clicked, probability),
    }


def xauc(label: np.ndarray, value: np.ndarray) -> float:
    """The share of the pairs of impressions with different labels that the values put in the same order; NaN without such a pair.

    Equal values count half, so that it is the AUC where labels are 0 and 1 (Zhan et al., "Deconfounding Duration Bias in Watch-time
    Prediction for Video Recommendation", 2022). It is exact: Kendall's tau is (C - D) / sqrt(L V), where C pairs are in the same
    order and D in the other, L have different labels and V different values.
    """
    different_labels, different_values = _different_pairs(label), _different_pairs(value)
    if not different_labels:
        return float("nan")
    if not different_values:
        return 0.5
    tau = float(kendalltau(label, value, method="asymptotic").statistic)
    return (1 + tau * (different_values / different_labels) ** 0.5) / 2


def _different_pairs(values: np.ndarray) -> float:
    """The number of pairs of different values."""
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    return float(len(values) ** 2 - (counts**2).sum()) / 2


def label_metrics(label: np.ndarray, value: np.ndarray, probability: bool) -> dict[str, float]:
    """How good a goal is predicted, as a `probability` of labels from 0 to 1 or as an expected number.

    `auc` where the labels are 0 and 1, else `xauc`; `log_loss` of a probability, else `mean_error`, of the absolute difference;
    `calibration_error` and `predicted_to_observed`, as for clicks; and how many impressions had a label.
    """
    if not len(label):
        return {"xauc": float("nan"), "labels": 0}
    binary = bool(np.isin(label, (0, 1)).all()) and probability
    found = {"auc": auc(label > 0, value)} if binary else {"xauc": xauc(label, value)}
    found |= {"log_loss": cross_entropy(label, value)} if probability else {"mean_error": float(np.abs(label - value).mean())}
    return found | {
        "calibration_error": calibration_error(label, value),
        "predicted_to_observed": predicted_to_observed(label, value),
        "labels": len(label),
    }


def cross_entropy(label: np.ndarray, probability: np.ndarray) -> float:
    """The mean log loss of labels from 0 to 1."""
    p, y = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7), label.astype(np.float64)
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean())


def recall_at_k(page: np.ndarray, relevant: np.ndarray) -> float:
    """The share of the relevant items that are on the page."""
    return float(np.isin(relevant, page).mean())


def ndcg_at_k(page: np.ndarray, relevant: np.ndarray, k: int) -> float:
    """Binary NDCG of the first k items of a page, which is ordered best first."""
    gains = np.isin(page[:k], relevant) / np.log2(np.arange(2, len(page[:k]) + 2))
    best = (1 / np.log2(np.arange(2, min(k, len(relevant)) + 2))).sum()
    return float(gains.sum() / best)


def ranking_at_k(best_BK: np.ndarray, relevant_BI: sparse.csr_array) -> np.ndarray:
    """Recall@K and binary NDCG@K of B users, whose K best items `best_BK` names in order and who have relevant ones: [2, B]."""
    count_B, items = np.diff(relevant_BI.indptr), relevant_BI.shape[1]
    rows = np.arange(len(best_BK))
    hits_BK = np.isin(rows[:, None] * items + best_BK, np.repeat(rows, count_B) * items + relevant_BI.indices)
    gain_K = 1 / np.log2(np.arange(2, best_BK.shape[1] + 2))
    ideal_B = gain_K.cumsum()[np.minimum(count_B, len(gain_K)) - 1]
    return np.stack([hits_BK.sum(axis=1) / count_B, hits_BK @ gain_K / ideal_B])
