"""The history of an example holds what its user had clicked before it, by the time of the click and not of its impression."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Ranker
from rayrec.data.loading import RankingData
from tests.fixtures.ranking import prepared

MINUTE_MS = 60_000


def histories(data: RankingData) -> list[tuple[str, int, list[str]]]:
    """User, time and the clicked videos of each example."""
    found = []
    for part in (data.train, data.validation, data.test):
        for user, at, end in zip(part.user, part.at, part.end, strict=True):
            items = data.clicks.items[data.clicks.offsets[user] : end]
            found.append((data.users.ids[user], int(at), [data.items.ids[item] for item in items]))
    return found


@pytest.mark.parametrize("dated", [True, False])
def test_histories_equal_a_loop_over_the_log(raw: dict[str, pa.Table], settings: Ranker, dated: bool) -> None:
    log = raw["interactions"].sort_by("shown_at")
    rng, rows = np.random.default_rng(3), log.num_rows
    # Up to a day later; some a little before the impression, by a clock that is slow; for some rows nothing is known.
    delay = rng.integers(-60, 1440, rows) * MINUTE_MS
    said = [
        None if unknown else at
        for unknown, at in zip(rng.random(rows) < 0.3, (log["shown_at"].to_numpy() + delay).tolist(), strict=True)
    ]
    if dated:
        log = log.append_column("clicked_at", pa.array(said, pa.int64()))
    # Where it is known when the page was made, some clicks came between that and the view.
    made = log["shown_at"].to_numpy() - rng.integers(0, 600, rows) * MINUTE_MS
    if dated:
        log = log.append_column("delivered_at", pa.array(made, pa.int64(), mask=rng.random(rows) < 0.3))
    plain = log.to_pylist()
    clicks = [
        (max(row["shown_at"], row.get("clicked_at") or 0), row["user_id"], row["video_id"]) for row in plain if row["clicked"]
    ]
    expected = [
        (
            row["user_id"],
            row["shown_at"],
            [
                video
                for at, user, video in sorted(clicks, key=lambda click: click[0])
                if user == row["user_id"] and at < (row.get("delivered_at") or row["shown_at"])
            ],
        )
        for row in plain
    ]
    assert histories(prepared(raw | {"interactions": log}, settings)) == expected
