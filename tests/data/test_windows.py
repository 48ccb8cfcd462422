"""A window shows a model some of the clicks that were known, and never one from the future."""

import numpy as np
import pytest
import torch

from rayrec.data import windows
from rayrec.data.history import ClickHistory
from rayrec.data.windows import MINUTE_MS, HistoryGather, LatestClicks, LatestSessions


@pytest.mark.parametrize("reach", [1000, 8])
def test_sessions_are_cut_from_the_whole_history(monkeypatch: pytest.MonkeyPatch, reach: int) -> None:
    """Against a loop: of each of the last two sessions the last three clicks, however long the sessions are."""
    monkeypatch.setattr(windows, "SESSIONS_REACH", reach)
    rng = np.random.default_rng(0)
    users, items, times = rng.integers(1, 9, 400), rng.integers(1, 50, 400), rng.integers(0, 60, 400) * MINUTE_MS
    clicks = ClickHistory.of(users, items, times, user_count=10)
    asked_user, asked_at = rng.integers(0, 10, 300), rng.integers(-5, 70, 300) * MINUTE_MS
    gather = HistoryGather(clicks, LatestSessions(2, 3, gap_minutes=2), torch.device("cpu"))
    ends = clicks.ends(asked_user, asked_at)
    items_seen, times_seen = gather(torch.from_numpy(asked_user), torch.from_numpy(ends))
    order, longest = np.argsort(times, kind="stable"), 0
    for row, (user, at) in enumerate(zip(asked_user, asked_at, strict=True)):
        known = [(int(times[i]), int(items[i])) for i in order if users[i] == user and times[i] < at][-reach:]
        sessions: list[list[tuple[int, int]]] = [[]]
        for click in known:
            if sessions[-1] and click[0] - sessions[-1][-1][0] > 2 * MINUTE_MS:
                sessions.append([])
            sessions[-1].append(click)
        longest = max(longest, len(sessions[-1]))
        read = [click for session in sessions[-2:] for click in session[-3:]]
        padding = [0] * (6 - len(read))
        assert items_seen[row].tolist() == padding + [item for _, item in read]
        assert times_seen[row].tolist() == padding + [time for time, _ in read]
    assert longest > 6  # more than all clicks that are read


def test_nobody_and_nothing() -> None:
    clicks = ClickHistory.of(*(np.empty(0, dtype=np.int64) for _ in range(3)), user_count=3)
    ends = clicks.ends(np.array([0, 2]), np.array([5, 5]))
    for window in (LatestClicks(4), LatestSessions(2, 2, 30)):
        items, _ = HistoryGather(clicks, window, torch.device("cpu"))(torch.tensor([0, 2]), torch.from_numpy(ends))
        assert items.tolist() == [[0] * 4] * 2
    assert clicks.of_user(2).tolist() == []
