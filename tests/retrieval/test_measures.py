"""Mean average precision against scikit-learn, and Recall@k by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from rayrec.retrieval.measures import mean_average_precision, recall_at


def test_mean_average_precision_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, relevant = rng.normal(size=(30, 50)), rng.random((30, 50)) < 0.1
    relevant[3] = False  # does not count
    some = [row for row in range(30) if relevant[row].any()]
    assert mean_average_precision(scores, relevant) == pytest.approx(
        np.mean([average_precision_score(relevant[row], scores[row]) for row in some])
    )
    assert np.isnan(mean_average_precision(scores, np.zeros_like(relevant)))


def test_recall_counts_no_more_than_k_relevant_videos() -> None:
    scores = np.array([[5.0, 4.0, 3.0, 2.0, 1.0]])
    relevant = np.array([[True, False, True, False, True]])
    assert recall_at(1, scores, relevant) == 1
    assert recall_at(2, scores, relevant) == pytest.approx(1 / 2)
    assert recall_at(4, scores, relevant) == pytest.approx(2 / 3)
    assert recall_at(5, scores, relevant) == 1
