"""Feedback against pairs that were counted by hand."""

import numpy as np

from rayrec.collaborative.feedback import clicked, without
from rayrec.data.examples import Examples


def examples(rows: list[tuple[int, int, bool]]) -> Examples:
    user, item, labels = (np.array(column) for column in zip(*rows, strict=True))
    zeros = np.zeros(len(rows), np.int64)
    return Examples(user.astype(np.int32), item.astype(np.int32), labels.astype(bool), zeros, zeros, zeros[:, None])


def test_each_pair_counts_once_and_unknown_users_and_items_do_not() -> None:
    found = clicked(examples([(1, 2, True), (1, 2, True), (1, 3, False), (0, 2, True), (2, 0, True), (2, 1, True)]), 3, 4)
    assert found.toarray().tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]


def test_what_training_has_is_not_held_out() -> None:
    likes = clicked(examples([(1, 2, True), (2, 1, True)]), 3, 4)
    later = clicked(examples([(1, 2, True), (1, 3, True), (2, 2, True)]), 3, 4)
    left = without(later, likes)
    assert left.toarray().tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert left.nnz == 2
