"""What a model reads of a history, and how it is gathered for a batch."""

from dataclasses import dataclass

import numpy as np
import torch

from rayrec.data.history import ClickHistory

MINUTE_MS = 60_000
SESSIONS_REACH = 1000  # clicks from which sessions are cut: more than ten sessions of nearly all users


@dataclass(frozen=True)
class LatestClicks:
    """What most models read of a history: its latest clicks."""

    width: int  # H: so many

    @property
    def reach(self) -> int:
        """How many of a user's latest clicks are looked at."""
        return self.width


@dataclass(frozen=True)
class LatestSessions:
    """What models of sessions read: the `length` latest clicks of each of the `count` latest sessions.

    A session ends where the next click comes more than `gap_minutes` later. Sessions are cut before clicks are left out, so that a
    long session does not push the others out of the history.
    """

    count: int
    length: int
    gap_minutes: float

    @property
    def width(self) -> int:
        return self.count * self.length

    @property
    def reach(self) -> int:
        """How many of a user's latest clicks are looked at; a bundle keeps as many, so that serving sees what training saw."""
        return max(SESSIONS_REACH, self.width)


HistoryWindow = LatestClicks | LatestSessions


class HistoryGather:
    """The clicks as tensors on a device, cut into [B, H] windows for a batch."""

    def __init__(self, clicks: ClickHistory, window: HistoryWindow, device: torch.device) -> None:
        self.window = window
        self.offsets = torch.from_numpy(clicks.offsets).to(device)
        # Index 0 is a padding click, to which the indices of an empty history point.
        self.items = torch.from_numpy(np.concatenate([[0], clicks.items])).to(device)
        self.times = torch.from_numpy(np.concatenate([[0], clicks.times])).to(device)
        if isinstance(window, LatestSessions):
            session, start = _sessions(clicks, window.gap_minutes)
            self.session, self.start = torch.from_numpy(session).to(device), torch.from_numpy(start).to(device)

    def __call__(self, user_B: torch.Tensor, end_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Items and times [B, H] of the clicks that the window shows of those before position `end_B`.

        They are in the order of time, 0-padded on the left.
        """
        first_B1 = torch.maximum(self.offsets.index_select(0, user_B), end_B - self.window.reach)[:, None]
        if isinstance(self.window, LatestSessions):
            index_BH = self._of_sessions(self.window, first_B1, end_B)
        else:
            index_BH = end_B[:, None] + torch.arange(1 - self.window.width, 1, device=end_B.device)
            index_BH.masked_fill_(index_BH <= first_B1, 0)
        indices = index_BH.flatten()  # `index_select` is faster than indexing with brackets
        return self.items.index_select(0, indices).view_as(index_BH), self.times.index_select(0, indices).view_as(index_BH)

    def _of_sessions(self, window: LatestSessions, first_B1: torch.Tensor, end_B: torch.Tensor) -> torch.Tensor:
        """The indices [B, H] of the clicks in `items`, ascending, behind zeros for padding."""
        session_BS = self.session[end_B][:, None].long() - torch.arange(window.count, device=end_B.device)
        start_BS = torch.maximum(self.start[session_BS.clamp(min=0)], first_B1)
        end_BS = torch.minimum(self.start[session_BS.clamp(min=0) + 1], end_B[:, None])
        index_BSL = end_BS[..., None] - torch.arange(window.length, device=end_B.device)
        shown_BSL = (index_BSL > start_BS[..., None]) & (session_BS >= 0)[..., None]
        return (index_BSL * shown_BSL).flatten(1).sort(1).values


def _sessions(clicks: ClickHistory, gap_minutes: float) -> tuple[np.ndarray, np.ndarray]:
    """The session before each position, int32 [clicks + 1], and the position at which each session starts, int64 [sessions + 2].

    Sessions are counted over all users, since none is of two users; the number of clicks stands behind the last start.
    """
    new = np.diff(clicks.times, prepend=0) > gap_minutes * MINUTE_MS
    new[clicks.offsets[:-1][np.diff(clicks.offsets) > 0]] = True
    session = np.concatenate([[0], np.cumsum(new) - 1]).astype(np.int32)
    return session, np.concatenate([np.flatnonzero(new), [len(new), len(new)]])
