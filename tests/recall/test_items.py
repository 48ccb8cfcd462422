"""How often items were shown and clicked, against a loop over the log."""

import numpy as np

from rayrec.recall.items import DAY_MS, count_by_user_and_day


def test_a_user_counts_once_a_day_for_an_item() -> None:
    rng, count = np.random.default_rng(3), 7
    items, users = rng.integers(0, count, 2000), rng.integers(0, 9, 2000)
    at, clicked = 1_700_000_000_000 + rng.integers(0, 5 * DAY_MS, 2000), rng.random(2000) < 0.3
    exposures, clicks = count_by_user_and_day(items.astype(np.int32), users, at, clicked, count)

    def expected(item: int, rows: np.ndarray) -> int:
        found = [row for row in np.flatnonzero(rows).tolist() if items[row] == item]
        known = {(users[row], at[row] // DAY_MS) for row in found if users[row]}
        return len(known) + sum(users[row] == 0 for row in found)

    assert exposures.tolist() == [expected(item, np.ones(2000, bool)) for item in range(count)]
    assert clicks.tolist() == [expected(item, clicked) for item in range(count)]


def test_a_log_without_rows_or_known_users_is_counted() -> None:
    none = np.empty(0, np.int64)
    assert [each.tolist() for each in count_by_user_and_day(none, none, none, none.astype(bool), 3)] == [[0] * 3] * 2
    twice = np.array([1, 1])
    exposures, clicks = count_by_user_and_day(twice, np.zeros(2, int), np.array([5, 5]), np.array([True, False]), 3)
    assert (exposures.tolist(), clicks.tolist()) == ([0, 2, 0], [0, 1, 0])
