"""What must not be shown, against loops."""

from collections.abc import Iterator

import numpy as np

from rayrec.recall.exclusions import Exclusions, first_allowed
from tests.recall.small_catalog import NOTHING


def test_excluded_items_and_all_items_of_blocked_authors_are_not_allowed() -> None:
    author_of = np.array([0, 1, 1, 2, 3])
    exclusions = Exclusions.of(np.array([4, 2, 4]), blocked=np.array([2]), author_of=author_of)
    assert exclusions.allow(np.arange(5)).tolist() == [False, True, False, False, False]
    assert exclusions.also(np.array([1])).allow(np.arange(5)).tolist() == [False] * 5
    assert NOTHING.allow(np.arange(3)).tolist() == [False, True, True]


def test_the_first_allowed_items_are_those_of_a_loop() -> None:
    """Of parts of any lengths, with few and with nearly all items excluded."""
    rng = np.random.default_rng(0)
    for _ in range(500):
        size, count = int(rng.integers(1, 300)), int(rng.integers(0, 40))
        parts = np.split(
            rng.permutation(np.arange(1, size + 1, dtype=np.int32)), np.sort(rng.integers(0, size, rng.integers(0, 3)))
        )
        excluded = np.flatnonzero(rng.random(size + 1) < rng.choice([0, 0.5, 0.9, 1]))
        wanted = [item for part in parts for item in part.tolist() if item not in set(excluded.tolist())][:count]
        assert first_allowed(parts, Exclusions.of(excluded), count).tolist() == wanted


def test_parts_are_read_no_farther_than_needed() -> None:
    def parts() -> Iterator[np.ndarray]:
        yield np.arange(1, 100, dtype=np.int32)
        raise AssertionError("the second part is not needed")

    assert first_allowed(parts(), Exclusions.of(np.arange(90)), 10).tolist() == list(range(90, 100))
