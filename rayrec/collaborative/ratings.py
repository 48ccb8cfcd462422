"""What a rating model learns from: who gave which item how many points, and what is known of users and items beside it.

Users and items are the indices of the encoded log, where 0 is "unknown". Ratings are lists of triples rather than a sparse matrix,
in which a rating of 0 would look like none.

Shapes: N ratings, U users, I items (both count index 0), F fields of a user or item as numbers, K unknowns of a row.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Ratings:
    """One row for each pair of a user and an item."""

    user: np.ndarray  # int32 [N]
    item: np.ndarray  # int32 [N]
    rating: np.ndarray  # float32 [N]

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def of(cls, user_N: np.ndarray, item_N: np.ndarray, rating_N: np.ndarray) -> Self:
        """Of ratings in time order, those of known users and items; the last one counts where a user rated an item again."""
        known = np.flatnonzero((user_N > 0) & (item_N > 0) & np.isfinite(rating_N))[::-1]
        pairs = np.stack([user_N[known], item_N[known]], 1)
        rows = np.sort(known[np.unique(pairs, axis=0, return_index=True)[1]])
        return cls(user_N[rows].astype(np.int32), item_N[rows].astype(np.int32), rating_N[rows].astype(np.float32))

    @property
    def range(self) -> np.ndarray:
        """The lowest and the highest rating: float32 [2]."""
        return np.array([self.rating.min(), self.rating.max()], np.float32)

    def take(self, rows: np.ndarray) -> "Ratings":
        return Ratings(self.user[rows], self.item[rows], self.rating[rows])

    def matrix(self, users: int, items: int, values_N: np.ndarray) -> sparse.csr_array:
        """A number for each of these ratings, zeros included, at its user and item: [U, I] in the type of the numbers."""
        return sparse.coo_array((values_N, (self.user, self.item)), shape=(users, items)).tocsr()


@dataclass(frozen=True)
class RatingData:
    """The ratings to learn from, and those to be predicted."""

    train: Ratings
    held_out: Ratings
    user_fields_UF: np.ndarray = field(repr=False)  # float32, such as age and gender; F may be 0
    item_fields_IF: np.ndarray = field(repr=False)  # float32, such as genres

    @classmethod
    def of(cls, train: Ratings, held_out: Ratings, users: int, items: int) -> Self:
        """Ratings alone, of which nothing else is known. The counts include index 0."""
        return cls(train, held_out, np.zeros((users, 0), np.float32), np.zeros((items, 0), np.float32))

    @property
    def users(self) -> int:
        return len(self.user_fields_UF)

    @property
    def items(self) -> int:
        return len(self.item_fields_IF)


@dataclass(frozen=True)
class Side:
    """The ratings grouped by one side, users or items, for least squares on what the other side's rows say."""

    row_N: np.ndarray  # of this side, in order
    column_N: np.ndarray  # of the other side
    order_N: np.ndarray  # where each of them is among the ratings
    indptr: np.ndarray  # where the ratings of each row begin: int64 [rows + 1]

    @classmethod
    def of(cls, row_N: np.ndarray, column_N: np.ndarray, rows: int) -> Self:
        order_N = np.argsort(row_N, kind="stable")
        ends = np.cumsum(np.bincount(row_N, minlength=rows))
        return cls(row_N[order_N], column_N[order_N], order_N, np.concatenate([[0], ends]))

    def normal_equations(self, rows: slice, design_MK: np.ndarray, target_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each of some rows its Gram matrix [rows, K, K] and right side [rows, K].

        They are the sums over its ratings of x x^T and x y, where x is the row of the design matrix that belongs to the rated item
        (or to the user who rated), and y the target.
        """
        indptr = self.indptr[rows.start : rows.stop + 1]
        part = slice(indptr[0], indptr[-1])
        layout = (self.column_N[part], indptr - indptr[0])
        shape = (len(indptr) - 1, len(design_MK))
        ones = sparse.csr_array((np.ones(part.stop - part.start), *layout), shape=shape)
        targets = sparse.csr_array((target_N[self.order_N[part]], *layout), shape=shape)
        size = design_MK.shape[1]
        one, other = np.triu_indices(size)
        gram = np.empty((shape[0], size, size))
        gram[:, one, other] = gram[:, other, one] = ones @ (design_MK[:, one] * design_MK[:, other])
        return gram, targets @ design_MK
