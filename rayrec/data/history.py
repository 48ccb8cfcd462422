"""Keeps everybody's clicks in one CSR array, and gathers those that were known at a given time.

Examples don't carry copies of histories. An example knows the position in its user's clicks at which its own time falls (`ends`),
and a batch gathers the H clicks that the model reads of those before it in one vectorised step. A click is dated by the time at
which it was made, not by that of its impression, since a page is often fetched before the one above it was read. A click at the
very time of an impression is not before it, so that no history can hold the future.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PAIRS_AT_ONCE = 2**14  # so many fit into a processor's cache


DELIVERED_AT = "delivered_at"  # the column of an exported log


def click_times(clicks: pa.Table) -> np.ndarray:
    """When the impressions in these rows of the log were clicked: int64, UTC ms.

    It is the time of the impression where the log does not say, or says a time before the impression, as clocks that differ do.
    """
    said = clicks["clicked_at"] if "clicked_at" in clicks.column_names else pa.nulls(clicks.num_rows, pa.int64())
    return pc.max_element_wise(clicks["shown_at"], said).to_numpy()


def times_of_requests(log: pa.Table) -> np.ndarray:
    """When the pages of these impressions were made, and so what was known of their users: int64, UTC ms.

    Where views are reported, an impression counts from its view on (`shown_at`), which may be later than clicks on the same page.
    Where the log does not say it, a page was made when it was shown.
    """
    said = log[DELIVERED_AT] if DELIVERED_AT in log.column_names else pa.nulls(log.num_rows, pa.int64())
    return pc.min_element_wise(log["shown_at"], said).to_numpy()


@dataclass(frozen=True)
class ClickHistory:
    """Clicks sorted by user, then time. `offsets[u] : offsets[u + 1]` are the clicks of user u."""

    offsets: np.ndarray  # int64 [U + 1]
    items: np.ndarray  # int32 [clicks]
    times: np.ndarray  # int64 [clicks], UTC ms

    @classmethod
    def of(cls, users: np.ndarray, items: np.ndarray, times: np.ndarray, user_count: int) -> "ClickHistory":
        """From clicks in any order; `users` are row indices below `user_count`. Clicks of the same time keep their order."""
        order = np.lexsort((times, users))
        offsets = np.zeros(user_count + 1, dtype=np.int64)
        np.cumsum(np.bincount(users, minlength=user_count), out=offsets[1:])
        return cls(offsets, items[order].astype(np.int32), times[order].astype(np.int64))

    def ends(self, users: np.ndarray, at: np.ndarray) -> np.ndarray:
        """The position behind each user's last click strictly before the given time: int64 [pairs]."""
        found = np.empty(len(users), dtype=np.int64)
        for start in range(0, len(users), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            found[part] = self._search(users[part], at[part])
        return found

    def _search(self, users: np.ndarray, at: np.ndarray) -> np.ndarray:
        """A binary search for all pairs at once."""
        low, high = self.offsets[users], self.offsets[users + 1]
        for _ in range(int((high - low).max()).bit_length()):
            middle = (low + high) // 2
            before = (low < high) & (self.times.take(middle, mode="clip") < at)
            low, high = np.where(before, middle + 1, low), np.where(before, high, middle)
        return low

    def of_user(self, user: int) -> np.ndarray:
        """All clicked items of a user, oldest first: int32 [clicks]."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]
