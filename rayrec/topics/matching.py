"""Keeps topic ids stable across retraining: new centres get the ids of the old topics that they correspond to.

The old centres mean nothing in the space of a retrained model. So each old topic is first carried over to the new space, as the
mean of the new embeddings of its videos. The Hungarian method then pairs carried and new centres so that the sum of their cosine
similarities is as large as possible.
"""

from collections.abc import Iterable

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.preprocessing import normalize

SAME_TOPIC = 0.5  # the cosine similarity from which a pair counts as the same topic


def carried_centres(sums: Iterable[np.ndarray]) -> np.ndarray:
    """The centres of the old topics in the new space, L2-normalised float32 [old topics, size].

    `sums` are those of the new embeddings of the videos of each old topic, from one or several blocks of videos. A topic without
    any video left is zeros.
    """
    return normalize(sum(sums)).astype(np.float32)


def match(centres: np.ndarray, carried: np.ndarray) -> tuple[np.ndarray, int]:
    """The order in which the new centres [new, size] get their ids, and how many of them correspond to the old topic of that id.

    When there are fewer new topics than old ones, ids still run from 0 to `new` - 1, so that some pairs can't keep their id.
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
    return order, int((similarity[order[:shared], np.arange(shared)] >= SAME_TOPIC).sum())
