"""A history holds a user's latest clicks, and never one from the future."""

import numpy as np
import pytest
import torch

from rayrec.data import history
from rayrec.data.history import ClickHistory
from rayrec.data.windows import HistoryGather, LatestClicks


def test_a_history_holds_just_the_clicks_before_an_impression(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 9, 400), rng.integers(1, 50, 400)
    times = rng.integers(0, 60, 400)  # many ties: a click at the very time of an impression does not count
    clicks = ClickHistory.of(users, items, times, user_count=10)
    asked_user, asked_at = rng.integers(0, 10, 300), rng.integers(-5, 70, 300)
    monkeypatch.setattr(history, "PAIRS_AT_ONCE", 64)
    ends = clicks.ends(asked_user, asked_at)
    gather = HistoryGather(clicks, LatestClicks(6), torch.device("cpu"))
    items_seen, times_seen = gather(torch.from_numpy(asked_user), torch.from_numpy(ends))
    order = np.argsort(times, kind="stable")
    for row, (user, at) in enumerate(zip(asked_user, asked_at, strict=True)):
        known = [(times[i], items[i]) for i in order if users[i] == user and times[i] < at][-6:]
        padding = 6 - len(known)
        assert items_seen[row].tolist() == [0] * padding + [item for _, item in known]
        assert times_seen[row].tolist() == [0] * padding + [time for time, _ in known]
