"""The items that go with each item, by what people clicked or, for items that nobody has clicked yet, by their content.

Shapes: I items (item 0 is "no item"), K neighbours of each.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from rayrec.data.top import rows_at_once, top_items


@dataclass(frozen=True)
class Neighbours:
    """Those of item i are in row i, the best first. Where there are no more, the item and its weight are 0."""

    items: np.ndarray  # int32 [I, K]
    weights: np.ndarray  # float32 [I, K], never negative, comparable between rows

    def of(self, clicked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The distinct neighbours of some items (int32), and the sum of each one's weights beside these items.

        Items that were added behind the I have no neighbours.
        """
        known = clicked[clicked < len(self.items)]
        found, place = np.unique(self.items[known], return_inverse=True)
        total = np.bincount(place.ravel(), self.weights[known].ravel(), minlength=len(found))
        good = np.flatnonzero((found > 0) & (total > 0))
        return found[good], total[good].astype(np.float32)

    def aligned(self, old: np.ndarray) -> Self:
        """For items in another order: `old` (int [I']) has the row of each here, 0 for one that is not here."""
        new = np.zeros(len(self.items), np.int32)
        new[old] = np.arange(len(old), dtype=np.int32)
        new[0] = 0
        items = new[self.items[old]]
        return type(self)(items, np.where(items > 0, self.weights[old], 0).astype(np.float32))

    def completed(self, unknown: np.ndarray, content: np.ndarray) -> Self:
        """With neighbours by content for the items of a mask [I], of which nobody has clicked any.

        Row i - 1 of `content` (float32 [I - 1, D]) is the vector of item i, of length 1 or all zeros. The weights are cosines,
        scaled so that the best neighbour of such an item weighs what that of the median item does.
        """
        rows = np.flatnonzero(unknown[1:] & content.any(axis=1)) + 1
        items, weights = self.items.copy(), self.weights.copy()
        items[unknown], weights[unknown] = 0, 0
        best = weights[:, 0][weights[:, 0] > 0]
        count = min(weights.shape[1], len(content) - 1)
        if not len(best) or count < 1:
            return type(self)(items, weights)
        for start in range(0, len(rows), rows_at_once(len(content))):
            some = rows[start : start + rows_at_once(len(content))]
            similarity = content[some - 1] @ content.T
            similarity[np.arange(len(some)), some - 1] = 0
            nearest = top_items(similarity, count)
            cosine = np.take_along_axis(similarity, nearest, axis=1).clip(min=0)
            items[some, :count] = np.where(cosine > 0, nearest + 1, 0)
            weights[some, :count] = cosine / np.maximum(cosine[:, :1], 1e-9) * np.median(best)
        return type(self)(items, weights)
