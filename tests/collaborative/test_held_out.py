"""The last clicks of each user, against a loop."""

import numpy as np

from rayrec.collaborative.held_out import last_clicks
from rayrec.data.history import ClickHistory


def test_the_last_two_clicks_of_each_user_are_held_out() -> None:
    rng = np.random.default_rng(0)
    users, items = 12, 9
    user, item = rng.integers(0, users, 70), rng.integers(0, items, 70)
    user, item = np.append(user, [10, 10, 11]), np.append(item, [3, 3, 4])  # and two with too few of them
    keep = (user < 10) | (np.arange(len(user)) >= 70)
    user, item = user[keep], item[keep]
    clicks = ClickHistory.of(user, item, np.arange(len(user)), users)
    found = [np.zeros((users, items)) for _ in range(3)]
    for each in range(1, users):
        distinct = [other for other in dict.fromkeys(item[user == each].tolist()) if other]
        parts = (distinct[:-2], distinct[-2:-1], distinct[-1:]) if len(distinct) >= 3 else (distinct, [], [])
        for matrix, part in zip(found, parts, strict=True):
            matrix[each, part] = 1
    for matrix, expected in zip(last_clicks(clicks, items), found, strict=True):
        assert (matrix.toarray() == expected).all()
