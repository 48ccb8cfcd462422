"""How popular videos are: how often each was shown and clicked on each day, and sums of these counts in which old days fade.

Like the other counters, a user counts once a day (UTC) for each video. At a time, only the days before are known: what happens on a
day is counted from the next midnight on, so that no click can tell of itself, or of a later one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa

from rayrec.data.context import DAY_MS
from rayrec.data.errors import DataError
from rayrec.data.split import SplitBy

DAILY = pa.schema({"day": pa.int32(), "item": pa.int32(), "exposures": pa.int32(), "clicks": pa.int32()})
DAYS = 2**20  # more than there are from 1970 on; `item * DAYS + day` is a key


@dataclass(frozen=True)
class DailyCounts:
    """The days (since 1970) and items with exposures or clicks, each pair once, sorted by day and item: int32 [pairs] each."""

    day: np.ndarray
    item: np.ndarray  # never 0
    exposures: np.ndarray
    clicks: np.ndarray

    @classmethod
    def of(cls, user: np.ndarray, item: np.ndarray, shown_at: np.ndarray, clicked: np.ndarray, made_at: np.ndarray) -> Self:
        """From the rows of a log: indices, UTC ms and a mask. `made_at` are the times of clicks, read where `clicked`."""
        shown = _once_a_day(user, item, shown_at, item > 0)
        clicks = _once_a_day(user, item, made_at, clicked & (item > 0))
        return cls._summed(np.append(shown, clicks), np.repeat([1, 0], [len(shown), len(clicks)]))

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> Self:
        """The counts of several groups of users together."""
        key, exposures, clicks = (
            np.concatenate(columns)
            for columns in zip(*((_key(part.day, part.item), part.exposures, part.clicks) for part in parts), strict=True)
        )
        return cls._of_keys(key, exposures, clicks)

    @classmethod
    def of_table(cls, table: pa.Table) -> Self:
        return cls(*(table[name].to_numpy() for name in DAILY.names))

    @property
    def table(self) -> pa.Table:
        """A table with the schema `DAILY`."""
        return pa.table([self.day, self.item, self.exposures, self.clicks], schema=DAILY)

    def before(self, at: int) -> Self:
        """Without the day of a time (UTC ms) and later ones."""
        rows = slice(0, int(np.searchsorted(self.day, at // DAY_MS)))
        return type(self)(self.day[rows], self.item[rows], self.exposures[rows], self.clicks[rows])

    @classmethod
    def _summed(cls, key: np.ndarray, shown: np.ndarray) -> Self:
        return cls._of_keys(key, shown, 1 - shown)

    @classmethod
    def _of_keys(cls, key: np.ndarray, exposures: np.ndarray, clicks: np.ndarray) -> Self:
        """Sums the counts of equal keys."""
        found, place = np.unique(key, return_inverse=True)
        sums = [np.bincount(place, counts, len(found)).astype(np.int32) for counts in (exposures, clicks)]
        day, item = found >> 32, found & 0xFFFFFFFF
        return cls(day.astype(np.int32), item.astype(np.int32), *sums)


@dataclass(frozen=True)
class FadingCounts:
    """For each of P half-lives the exposures and clicks of each item, in which a count of d days ago weighs 2^(-d / half-life).

    A row has the sums at the end of a day on which the item was shown or clicked. Between these days the sums only fade, so that
    `find` knows those of any time from the latest row before it. Item 0 has the sums of all items.
    """

    key: np.ndarray  # int64 [rows], ascending: item * DAYS + day
    sums: np.ndarray  # float32 [rows, 2, P]: exposures and clicks
    half_lives: np.ndarray  # float32 [P], days
    items: int  # how many there are, without item 0

    @classmethod
    def of(cls, daily: DailyCounts, half_lives: Sequence[float], items: int) -> Self:
        """The sums of all days; `items` counts item 0 too. One pass over the days, in order."""
        days, first = np.unique(daily.day, return_index=True)
        counts = np.stack([daily.exposures, daily.clicks], 1).astype(np.float64)
        day, item = np.append(daily.day, days).astype(np.int64), np.append(daily.item, np.zeros_like(days)).astype(np.int64)
        counts = np.concatenate([counts, np.add.reduceat(counts, first) if len(days) else counts])
        order = np.argsort(day, kind="stable")
        day, item, counts = day[order], item[order], counts[order]
        lives = np.asarray(half_lives, np.float64)
        state, last, sums = np.zeros((items, 2, len(lives))), np.zeros(items), np.empty((len(day), 2, len(lives)))
        for rows in np.split(np.arange(len(day)), np.flatnonzero(np.diff(day)) + 1) if len(day) else ():
            touched, today = item[rows], day[rows[0]]
            fade = 2.0 ** -((today - last[touched])[:, None] / lives)
            state[touched] = state[touched] * fade[:, None] + counts[rows][:, :, None]
            last[touched], sums[rows] = today, state[touched]
        key = item * DAYS + day
        order = np.argsort(key)
        return cls(key[order], sums[order].astype(np.float32), lives.astype(np.float32), items - 1)

    @property
    def latest(self) -> Self:
        """The last row of each item, and the one before it if that is of the last day of all: what times from that day on need."""
        last = np.diff(self.key // DAYS, append=-1) != 0
        day = self.key % DAYS
        today = last & (day == day.max(initial=0))
        kept = np.flatnonzero(last | np.append(today[1:], False)[: len(last)])
        return type(self)(self.key[kept], self.sums[kept], self.half_lives, self.items)

    def renumbered(self, item_of: np.ndarray) -> Self:
        """With other numbers for the items: int64 [I], 0 for those that are no longer there; item 0 keeps its own."""
        item = self.key // DAYS
        kept = (item == 0) | (item_of[item] > 0)
        key = (item_of[item] * DAYS + self.key % DAYS)[kept]
        order = np.argsort(key)
        return type(self)(key[order], self.sums[kept][order], self.half_lives, self.items)


def refuse_without_times(half_lives: Sequence[float], by: SplitBy) -> None:
    """Raise `DataError` for counts that shall fade where the log has no times."""
    if half_lives and by != "time":
        raise DataError("ranker.popularity: counts fade with the days, and the log has no times; remove it")


def _once_a_day(user: np.ndarray, item: np.ndarray, at: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The key of day and item of these rows (a mask), once for each user."""
    key, user = _key(at[rows] // DAY_MS, item[rows]), user[rows]
    order = np.lexsort((key, user))
    key, user = key[order], user[order]
    new = np.ones(len(key), dtype=bool)
    new[1:] = (key[1:] != key[:-1]) | (user[1:] != user[:-1])
    return key[new]


def _key(day: np.ndarray, item: np.ndarray) -> np.ndarray:
    return day.astype(np.int64) << 32 | item.astype(np.int64)
