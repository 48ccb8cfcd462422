"""What must not be shown, against loops."""

import numpy as np

from rayrec.recall.exclusions import Exclusions
from tests.recall.small_catalog import NOTHING


def test_excluded_items_and_all_items_of_blocked_authors_are_not_allowed() -> None:
    author_of = np.array([0, 1, 1, 2, 3])
    exclusions = Exclusions.of(np.array([4, 2, 4]), blocked=np.array([2]), author_of=author_of)
    assert exclusions.allow(np.arange(5)).tolist() == [False, True, False, False, False]
    assert exclusions.also(np.array([1])).allow(np.arange(5)).tolist() == [False] * 5
    assert NOTHING.allow(np.arange(3)).tolist() == [False, True, True]
