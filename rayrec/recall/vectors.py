"""Vectors by which users like items, so that new users and new clicks count at once, and new videos by their content.

A user is the sum of the `clicked` vectors of what they clicked, and likes an item by the product of that sum with the item's
`candidate` vector.

Shapes: I items (item 0 is "no item"), A items that were added behind them, S numbers of a vector, D of a content vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from rayrec.recall.selection import best
from rayrec.recall.tower import ContentTower

OVERSAMPLING = 2  # times as many items are asked of the graph, since it finds most of the nearest, but not all
NO_VECTORS = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Vectors:
    """An item of which nothing is known has zeros and is never found."""

    clicked: np.ndarray  # float32 [I, S]
    candidate: np.ndarray  # float32 [I, S]
    tower: ContentTower | None = None  # content -> `clicked` and `candidate`, side by side
    graph: Any = None  # of usearch over `candidate` (`rayrec.nearest`); without it, all vectors are compared
    added: np.ndarray = field(default_factory=lambda: NO_VECTORS)  # float32 [A, 2 S], those of added items, side by side

    def user(self, clicked: np.ndarray) -> np.ndarray:
        """The vector of a user who clicked these items: float32 [S]."""
        late = clicked[clicked >= len(self.clicked)] - len(self.clicked)
        vector: np.ndarray = self.clicked[clicked[clicked < len(self.clicked)]].sum(axis=0)
        return vector + self._added(0)[late].sum(axis=0) if len(late) else vector

    def nearest(self, user: np.ndarray, count: int) -> np.ndarray:
        """The at most `count` items (int32) with the largest products with a user's vector, the largest first."""
        added = self._added(1) @ user
        if self.graph is None or OVERSAMPLING * count >= len(self.candidate):
            items, scores = np.arange(len(self.candidate) + len(added), dtype=np.int32), self.candidate @ user
        else:
            found = np.sort(np.asarray(self.graph.search(user, OVERSAMPLING * count).keys, np.int32))
            late = np.arange(len(self.candidate), len(self.candidate) + len(added), dtype=np.int32)
            items, scores = np.append(found, late), self.candidate[found] @ user
        scores = np.append(scores, added)
        scores[scores == 0] = -np.inf
        rows = best(scores, count)
        return items[rows[scores[rows] > -np.inf]]

    def aligned(self, old: np.ndarray) -> Self:
        """For items in another order: `old` (int [I']) has the row of each here, 0 for one that is not here."""
        clicked, candidate = (
            np.where(old[:, None] > 0, values[old], 0).astype(np.float32) for values in (self.clicked, self.candidate)
        )
        return replace(self, clicked=clicked, candidate=candidate)

    def completed(self, unknown: np.ndarray, content: np.ndarray, seed: int) -> Self:
        """With a tower that is fitted to all other items and gives the items of a mask [I] their vectors.

        Row i - 1 of `content` (float32 [I - 1, D]) is the content vector of item i, all zeros for one without.
        """
        both = np.hstack([self.clicked, self.candidate])
        present = np.append(False, content.any(axis=1))
        taught, placed = (np.flatnonzero(present & mask) for mask in (~unknown, unknown))
        both[unknown] = 0
        tower = None
        if len(taught) > 1:
            tower = ContentTower.fit(content[taught - 1], both[taught], seed)
            both[placed] = tower(content[placed - 1])
        size = self.clicked.shape[1]
        return replace(self, clicked=both[:, :size], candidate=both[:, size:], tower=tower)

    def grown(self, content: Sequence[np.ndarray | None]) -> Self:
        """With more items behind these, by their content vectors; those of None can't be found."""
        rows = np.zeros((len(content), 2 * self.clicked.shape[1]), np.float32)
        known = [row for row, vector in enumerate(content) if vector is not None and self.tower is not None]
        if self.tower is not None and known:
            rows[known] = self.tower(np.stack([vector for vector in content if vector is not None]))
        return replace(self, added=np.vstack([self.added, rows]) if len(self.added) else rows)

    def _added(self, side: int) -> np.ndarray:
        """float32 [A, S]: the `clicked` (0) or `candidate` (1) vectors of the added items."""
        size = self.clicked.shape[1]
        return self.added[:, side * size : (side + 1) * size] if len(self.added) else np.empty((0, size), np.float32)
