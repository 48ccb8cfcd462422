"""Topic ids that outlive a retraining: new centres take the ids of the old ones that they stand for.

A retrained model has a space of its own, in which the old centres mean nothing. So each old topic is first carried over, as the
mean of the new embeddings of the videos that it had; then the Hungarian method pairs carried and new centres so that the sum of
their cosine similarities is the greatest.
"""

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linear_sum_assignment
from sklearn.preprocessing import normalize

ALIKE = 0.5  # cosine similarity from which a pair counts as the same topic


def carried_centres(membership: sp.csr_matrix, embeddings: np.ndarray) -> np.ndarray:
    """Where old topics lie among new embeddings, L2-normalised float32 [old topics, size].

    `membership` is 0/1 [old topics, videos], `embeddings` [videos, size]; zeros for a topic whose videos are all gone.
    """
    return normalize(membership @ embeddings).astype(np.float32)


def match(centres: np.ndarray, carried: np.ndarray) -> tuple[np.ndarray, int]:
    """The order in which new centres [new, size] are to be numbered, and how many of them stand for the old topic of that number.

    Of fewer new topics than old ones each still gets a number below `new`, so some of those pairs are broken up.
    """
    count = len(centres)
    similarity = centres @ carried.T
    paired, olds = linear_sum_assignment(-similarity)
    order = np.full(count, -1)
    for new, old in zip(paired, olds, strict=True):
        if old < count:
            order[old] = new
    order[order < 0] = np.setdiff1d(np.arange(count), order)
    shared = min(count, len(carried))
    return order, int((similarity[order[:shared], np.arange(shared)] >= ALIKE).sum())
