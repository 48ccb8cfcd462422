"""The pages of a log: which impressions of the training split answered one request. `training.negatives.by: page` needs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa

PAGES = pa.schema({"user": pa.int32(), "item": pa.int32(), "at": pa.int64(), "clicked": pa.bool_(), "page": pa.int32()})


@dataclass(frozen=True)
class Pages:
    """The impressions of all pages on which something was clicked and something was not."""

    user: np.ndarray  # int32
    item: np.ndarray  # int32
    at: np.ndarray  # int64, UTC ms
    clicked: np.ndarray  # bool
    page: np.ndarray  # int32, from 0

    @classmethod
    def of(cls, user: np.ndarray, item: np.ndarray, at: np.ndarray, clicked: np.ndarray, page: np.ndarray) -> Self:
        """From impressions of which `page` is a number for each request, and -1 for an impression without one.

        A page is of one user: what others are said to have seen in the same request is another page.
        """
        _, number = np.unique(page, return_inverse=True)
        _, number = np.unique(user.astype(np.int64) * (number.max(initial=0) + 1) + number, return_inverse=True)
        clicks, others = (np.bincount(number, found, number.max(initial=0) + 1) for found in (clicked, ~clicked))
        rows = (page >= 0) & (clicks > 0)[number] & (others > 0)[number]
        _, number = np.unique(number[rows], return_inverse=True)
        return cls(user[rows], item[rows], at[rows], clicked[rows], number.astype(np.int32))

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> Self:
        """The pages of several groups of users together."""
        offsets = np.cumsum([0, *(part.page.max(initial=-1) + 1 for part in parts)])
        pages = [part.page + np.int32(offset) for part, offset in zip(parts, offsets, strict=False)]
        user, item, at, clicked = (np.concatenate([getattr(part, name) for part in parts]) for name in PAGES.names[:-1])
        return cls(user, item, at, clicked, np.concatenate(pages))

    @classmethod
    def of_table(cls, table: pa.Table) -> Self:
        return cls(*(table[name].to_numpy(zero_copy_only=False) for name in PAGES.names))

    @property
    def table(self) -> pa.Table:
        """A table with the schema `PAGES`."""
        return pa.table([self.user, self.item, self.at, self.clicked, self.page], schema=PAGES)


NO_PAGES = Pages.of_table(PAGES.empty_table())
