"""Keeps everybody's clicks in one CSR array, and gathers those that were known at a given time.

Examples don't carry copies of histories. An example knows the position in its user's clicks at which its own time falls (`ends`),
and a batch gathers the H clicks before that position in one vectorised step. A click at the very time of an impression is not
before it, so that no history can hold the future.
"""

from dataclasses import dataclass

import numpy as np
import torch

PAIRS_AT_ONCE = 2**14  # so many fit into a processor's cache


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


class HistoryGather:
    """The clicks as tensors on a device, cut into [B, H] windows for a batch."""

    def __init__(self, clicks: ClickHistory, length: int, device: torch.device) -> None:
        self.length = length
        self.offsets = torch.from_numpy(clicks.offsets).to(device)
        # Index 0 is a padding click, to which the indices of an empty history point.
        self.items = torch.from_numpy(np.concatenate([[0], clicks.items])).to(device)
        self.times = torch.from_numpy(np.concatenate([[0], clicks.times])).to(device)

    def __call__(self, user_B: torch.Tensor, end_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Items and times [B, H] of the latest clicks before position `end_B`, oldest first, 0-padded on the left."""
        index_BH = end_B[:, None] + torch.arange(1 - self.length, 1, device=end_B.device)
        index_BH.masked_fill_(index_BH <= self.offsets[user_B][:, None], 0)
        indices = index_BH.flatten()  # `index_select` is faster than indexing with brackets
        return self.items.index_select(0, indices).view_as(index_BH), self.times.index_select(0, indices).view_as(index_BH)
