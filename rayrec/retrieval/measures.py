"""How good a ranking of found videos is: mean average precision and Recall@k (Manning, Raghavan & Schuetze, 2008, chapter 8)."""

import numpy as np


def mean_average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """The mean over the queries of their average precision, from scores [Q, V] and the mask of what is relevant [Q, V].

    Queries for which nothing is relevant do not count. Among equal scores the earlier video is taken first. NaN without any query.
    """
    ranked = _ranked(scores, relevant)
    precision = np.cumsum(ranked, axis=1) / np.arange(1, ranked.shape[1] + 1)
    return float(((precision * ranked).sum(axis=1) / ranked.sum(axis=1)).mean()) if len(ranked) else float("nan")


def recall_at(k: int, scores: np.ndarray, relevant: np.ndarray) -> float:
    """The mean over the queries of the share of the relevant videos, of at most k, that are among the first k found ones."""
    ranked = _ranked(scores, relevant)
    shares = ranked[:, :k].sum(axis=1) / np.minimum(ranked.sum(axis=1), k)
    return float(shares.mean()) if len(ranked) else float("nan")


def _ranked(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """The relevance of the videos in the order of their scores, for the queries that have any."""
    some = relevant.any(axis=1)
    order = np.argsort(-scores[some], axis=1, kind="stable")
    return np.take_along_axis(relevant[some], order, axis=1)
