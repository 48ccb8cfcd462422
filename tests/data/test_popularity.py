"""Daily counts and fading sums are those of a loop over the log, and know nothing of the day itself or of later ones."""

import numpy as np
import pytest
import torch

from rayrec.data.context import DAY_MS
from rayrec.data.popularity import DAYS, DailyCounts, FadingCounts
from rayrec.ranking.popularity import Popularity

HALF_LIVES = [2.0, 30.0]
ITEMS = 6  # with item 0


@pytest.fixture
def log() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = 400
    shown_at = np.sort(rng.integers(100 * DAY_MS, 120 * DAY_MS, rows))
    return {
        "user": rng.integers(1, 9, rows).astype(np.int32),
        "item": rng.integers(0, ITEMS, rows).astype(np.int32),
        "shown_at": shown_at,
        "clicked": rng.random(rows) < 0.4,
        "made_at": shown_at + rng.integers(0, 2 * DAY_MS, rows),
    }


def slow_counts(log: dict[str, np.ndarray]) -> dict[tuple[int, int], list[int]]:
    """Exposures and clicks by day and item, for which a user counts once."""
    seen, counts = set(), dict[tuple[int, int], list[int]]()
    for user, item, shown_at, clicked, made_at in zip(*(column.tolist() for column in log.values()), strict=True):
        for kind, at in [(0, shown_at), *([(1, made_at)] if clicked else [])]:
            day = at // DAY_MS
            if item and (kind, user, item, day) not in seen:
                seen.add((kind, user, item, day))
                counts.setdefault((day, item), [0, 0])[kind] += 1
    return counts


def slow_sum(counts: dict[tuple[int, int], list[int]], item: int, day: int, kind: int, half_life: float) -> float:
    """What the days before a day have left, for all items where `item` is 0."""
    return sum(
        found[kind] * 0.5 ** ((day - before) / half_life)
        for (before, counted), found in counts.items()
        if before < day and item in (0, counted)
    )


def test_a_user_counts_once_a_day_for_each_video(log: dict[str, np.ndarray]) -> None:
    daily = DailyCounts.of(**log)
    columns = (daily.day, daily.item, daily.exposures, daily.clicks)
    found = {(day, item): [shown, clicks] for day, item, shown, clicks in zip(*(c.tolist() for c in columns), strict=True)}
    assert found == slow_counts(log)
    assert list(found) == sorted(found)


def test_the_counts_of_groups_of_users_add_up(log: dict[str, np.ndarray]) -> None:
    whole = DailyCounts.of(**log)
    parts = [DailyCounts.of(**{name: column[log["user"] % 3 == part] for name, column in log.items()}) for part in range(3)]
    merged = DailyCounts.merged(parts)
    assert merged.table.equals(whole.table)
    assert DailyCounts.of_table(merged.table).table.equals(whole.table)


def test_sums_are_those_of_a_loop_over_the_days(log: dict[str, np.ndarray]) -> None:
    counts, sums = slow_counts(log), FadingCounts.of(DailyCounts.of(**log), HALF_LIVES, ITEMS)
    assert (np.diff(sums.key) > 0).all()
    for key, found in zip(sums.key.tolist(), sums.sums, strict=True):
        item, day = divmod(key, DAYS)
        for kind in (0, 1):
            for life, half_life in enumerate(HALF_LIVES):
                until_tomorrow = slow_sum(counts, item, day + 1, kind, half_life) * 2 ** (1 / half_life)
                assert found[kind, life] == pytest.approx(until_tomorrow, rel=1e-5)


def test_what_came_before_a_time_is_all_that_is_left(log: dict[str, np.ndarray]) -> None:
    daily = DailyCounts.of(**log)
    before = daily.before(110 * DAY_MS + 5)
    assert before.day.max() == 109
    assert (daily.day <= 109).sum() == len(before.day)


def test_the_latest_rows_and_new_numbers(log: dict[str, np.ndarray]) -> None:
    sums = FadingCounts.of(DailyCounts.of(**log), HALF_LIVES, ITEMS)
    latest, last_day = sums.latest, (sums.key % DAYS).max()
    for item in range(ITEMS):
        rows = np.flatnonzero(sums.key // DAYS == item)
        kept = rows[-2:] if sums.key[rows[-1]] % DAYS == last_day else rows[-1:]
        np.testing.assert_array_equal(latest.sums[latest.key // DAYS == item], sums.sums[kept])
    moved = sums.renumbered(np.array([0, 3, 0, 1, 2, 7]))
    assert np.unique(moved.key // DAYS).tolist() == [0, 1, 2, 3, 7]
    assert (np.diff(moved.key) > 0).all()
    for before, after in ((0, 0), (1, 3), (3, 1), (4, 2), (5, 7)):
        np.testing.assert_array_equal(moved.sums[moved.key // DAYS == after], sums.sums[sums.key // DAYS == before])


def test_an_empty_log_has_no_sums() -> None:
    empty = np.empty(0, np.int64)
    daily = DailyCounts.of(empty, empty, empty, empty.astype(bool), empty)
    assert not len(FadingCounts.of(daily, HALF_LIVES, ITEMS).key)


def test_the_latest_counts_say_on_the_last_day_what_all_of_them_say() -> None:
    """A bundle may be published, and asked, on the day with which its log ends."""
    user, item, day = np.array([1, 2, 3, 1]), np.array([1, 2, 1, 2]), np.array([10, 10, 12, 12])
    at = day * DAY_MS
    counts = FadingCounts.of(DailyCounts.of(user, item, at, np.ones(4, bool), at), [7.0], 3)
    whole, latest = (Popularity(each, 1) for each in (counts, counts.latest))
    items = torch.tensor([[1, 2]])
    for asked in (12, 13, 40):
        torch.testing.assert_close(*(each.numbers(torch.tensor([asked * DAY_MS]), items) for each in (whole, latest)))
