"""What a page must not show, and how to take items around it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rayrec.recall.queues import NO_ITEMS


@dataclass(frozen=True)
class Exclusions:
    """Excluded are some items (seen before, or named by the caller) and all items of blocked authors."""

    items: np.ndarray  # int32, sorted, never empty
    blocked: np.ndarray  # int32, authors, sorted
    author_of: np.ndarray  # int32 [I], needed when authors are blocked

    @classmethod
    def of(cls, items: np.ndarray, blocked: np.ndarray = NO_ITEMS, author_of: np.ndarray = NO_ITEMS) -> "Exclusions":
        return cls(np.sort(np.append(items, 0).astype(np.int32)), np.sort(blocked), author_of)

    def also(self, items: np.ndarray) -> "Exclusions":
        """These exclusions and some more items."""
        return Exclusions.of(np.append(self.items, items), self.blocked, self.author_of)

    def allow(self, items: np.ndarray) -> np.ndarray:
        """A mask of the items that may be shown."""
        allowed = _absent(items, self.items)
        if len(self.blocked):
            allowed &= _absent(self.author_of[items], self.blocked)
        return allowed


def first_allowed(parts: Iterable[np.ndarray], exclusions: Exclusions, count: int) -> np.ndarray:
    """The first `count` items that are not excluded. The parts are read only as far as needed."""
    found = [NO_ITEMS]
    for part in parts:
        start, size = 0, 2 * count
        while count > 0 and start < len(part):
            items = part[start : start + size]
            found.append(items[exclusions.allow(items)][:count])
            count -= len(found[-1])
            start, size = start + size, 2 * size  # so that a part of which nearly all is excluded takes few steps
        if count <= 0:
            break
    return np.concatenate(found)


def _absent(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A mask of the values that are not among the known ones, which are sorted. Much faster than `np.isin` for short arrays."""
    return known.take(np.searchsorted(known, values), mode="clip") != values
