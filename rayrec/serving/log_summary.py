"""What a bundle takes from the log: each user's last clicks and seen videos, how often each was shown and clicked, and the end.

The log is summarised share by share, each with all impressions of its users: the tables of users are pieces of one table, and the
counts are added.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.examples import Examples
from rayrec.data.pieces import LogPieces
from rayrec.data.shares import Share
from rayrec.recall.items import count_by_user_and_day
from rayrec.serving.state.export import EXPORT


def exposures_and_clicks(share: Share, items: int) -> np.ndarray:
    """Exposures and clicks of each of so many items: int64 [2, items]. Item 0 stands for all videos that are no items."""
    rows = _all_rows(share)
    return np.stack(count_by_user_and_day(rows.item, rows.user, rows.at, rows.clicked, items))


def exported_upto(log: LogPieces) -> int | None:
    """The number of the last event that the log takes into account; None if it contains no export that says so."""
    if EXPORT not in log.columns:
        return None
    found = (pc.max(pc.cast(piece.read(log.fs, [EXPORT])[EXPORT], pa.int64())).as_py() for piece in log.pieces)
    return max((number for number in found if number is not None), default=None)


def user_table(share: Share, user_ids: pa.Array, max_clicks: int, seen_since: int) -> pa.Table:
    """The last clicks of each user and the distinct videos that they were shown: a piece of users.arrow, sorted by user id.

    The videos are those shown since `seen_since` (UTC ms), in the order of the last times.

    `user_ids` has the id of each user by index, from 1 on.
    """
    rows, history = _all_rows(share), share.clicks
    users, user = np.unique(rows.user, return_inverse=True)
    of_click = np.searchsorted(users, np.repeat(np.arange(len(history.offsets) - 1), np.diff(history.offsets)))
    known = history.items > 0
    clicked_items, clicked_at = history.items[known], history.times[known]
    clicks = _Latest(of_click[known], clicked_at, max_clicks)
    # The last time that each video was shown to each user.
    order = np.lexsort((rows.at, rows.item, user))
    last = order[np.append((np.diff(user[order]) != 0) | (np.diff(rows.item[order]) != 0), True)] if len(order) else order
    last = last[(rows.item[last] > 0) & (rows.at[last] >= seen_since)]
    seen = _Latest(user[last], rows.at[last], len(last))
    table = pa.table(
        {
            "user_id": user_ids.take(pa.array(users - 1)),
            "clicked": clicks.lists(clicked_items[clicks.rows], len(users)),
            "clicked_at": clicks.lists(clicked_at[clicks.rows], len(users)),
            "seen": seen.lists(rows.item[last][seen.rows], len(users)),
        }
    )
    return table.sort_by("user_id")


def _all_rows(share: Share) -> Examples:
    parts = [share.train_in_memory(), share.validation(), share.test()[0]]
    return Examples(*(np.concatenate(columns) for columns in zip(*(part.columns for part in parts), strict=True)))


class _Latest:
    """The rows of the `count` latest times of each user, sorted by user and then by time."""

    def __init__(self, user: np.ndarray, at: np.ndarray, count: int) -> None:
        order = np.lexsort((at, user))
        user = user[order]
        from_end = np.searchsorted(user, user, side="right") - np.arange(len(user))
        self.rows = order[from_end <= count]
        self.user = user[from_end <= count]

    def lists(self, values: np.ndarray, users: int) -> pa.ListArray:
        """The values of these rows as one list for each of so many users."""
        return pa.ListArray.from_arrays(np.searchsorted(self.user, np.arange(users + 1)).astype(np.int32), pa.array(values))
