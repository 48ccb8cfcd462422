"""Finds the items of the videos that a user has seen, which the state store knows by codes of four bytes (`state/seen.py`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from rayrec.recall.exclusions import Exclusions
from rayrec.serving.state.seen import CODES, codes


@dataclass(frozen=True)
class SeenIndex:
    """The codes of all items in ascending order, uint32 [I], and the items that have them, int32 [I]: 8 bytes for each item."""

    codes: np.ndarray
    items: np.ndarray

    @classmethod
    def of(cls, video_ids: Sequence[str], first: int = 1) -> Self:
        """The videos' items are numbered from `first` on."""
        found = codes(video_ids)
        order = np.argsort(found, kind="stable")
        return cls(found[order], (first + order).astype(np.int32))

    def grown(self, video_ids: Sequence[str], first: int) -> "SeenIndex":
        """With more videos, whose items are numbered from `first` on."""
        new = SeenIndex.of(video_ids, first)
        places = np.searchsorted(self.codes, new.codes, side="right")
        return SeenIndex(np.insert(self.codes, places, new.codes), np.insert(self.items, places, new.items))

    def find(self, seen: bytes) -> np.ndarray:
        """The items with these codes in the order of the codes, int32. A code may be that of several items, or of none."""
        wanted = np.frombuffer(seen, CODES)
        first, end = (np.searchsorted(self.codes, wanted, side=side) for side in ("left", "right"))
        counts = end - first
        start = np.repeat(first - (np.cumsum(counts) - counts), counts)
        return self.items[start + np.arange(len(start))]


def longest_unseen(
    seen: np.ndarray, exclusions: Exclusions, is_shown: Callable[[np.ndarray], np.ndarray], count: int
) -> np.ndarray:
    """Of the items that a user has seen, in the order of the times, the first `count` that may be shown, int32.

    Of an item that was seen several times, the last time counts. `is_shown` gives a mask of the items that may be shown at all.
    """
    items, places = np.unique(seen[::-1], return_index=True)
    in_order = items[np.argsort(-places)]
    return in_order[exclusions.allow(in_order) & is_shown(in_order)][:count]
