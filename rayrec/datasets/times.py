"""Reads times of any form as UTC milliseconds, with a reason for each cell that is no time."""

import time
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.datasets.cells import Converted, cast_cells
from rayrec.tables import TIME

TimeUnit = Literal["auto", "s", "ms", "us"]

YEAR_1990, YEAR_10000 = 631_152_000_000, 253_402_300_800_000  # UTC ms
DAY_MS = 86_400_000
MS_PER_UNIT = {"s": 1000.0, "ms": 1.0, "us": 0.001}
STRANGE = "is of before 1990 or after tomorrow, whether it is read as s, ms or us; set `dataset.time_unit` if it is right"


def to_time(array: pa.Array, unit: TimeUnit) -> Converted:
    """UTC milliseconds from numbers of `unit`, dates, timestamps or ISO 8601 text. Times without a zone are taken as UTC.

    A number such as 20240131 or 20240131120000 is that date, whatever the unit: as a number it would be a time of 1970. With the
    unit `auto`, a number has the unit in which it is a time from 1990 to tomorrow; no number is one in two units.
    """
    if pa.types.is_date(array.type) or pa.types.is_timestamp(array.type):
        return _calendar_time(array)
    dates: set[float] = set()  # the ms of text that is a date

    def number_of(cell: str) -> float:
        try:
            return float(cell)
        except ValueError:
            moment = datetime.fromisoformat(cell.strip())
        ms = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000
        dates.add(ms)
        return ms

    hint = f"is not a time: neither a number (of {'s, ms or us' if unit == 'auto' else unit}) nor ISO 8601, such as "
    hint += "2024-01-31T12:00:00Z"
    cells, faults = cast_cells(array, pa.float64(), number_of, hint)
    numbers = cells.to_numpy(zero_copy_only=False)  # doubles: exact to the ms far beyond the calendar
    missing = array.is_null().to_numpy(zero_copy_only=False)
    known = np.isin(numbers, list(dates))  # their unit is ms
    dated, dated_ms = _compact_dates(numbers)
    ms = np.where(known, numbers, numbers * _scale(numbers, unit))
    ms[dated] = dated_ms
    reason = STRANGE if unit == "auto" else f"is outside the calendar when read as {unit}; check `dataset.time_unit`"
    outside = ~missing & ~np.isnan(numbers) & ~(np.abs(ms) < YEAR_10000)
    faults |= {int(row): f"{str(array[int(row)].as_py())[:80]!r} {reason}" for row in np.flatnonzero(outside)}
    faults = {int(row): hint for row in np.flatnonzero(~missing & np.isnan(numbers))} | faults
    fine = ~missing
    fine[list(faults)] = False
    return pa.array(np.where(fine, np.round(np.where(fine, ms, 0)), 0).astype(np.int64), TIME, mask=~fine), faults


def tomorrow() -> int:
    """UTC ms."""
    return int(time.time() * 1000) + DAY_MS


def other_unit(number: int) -> str:
    """What to send instead of a number that should be UTC milliseconds but is a time in seconds or microseconds; "" for others."""
    for unit, scale in (("seconds", MS_PER_UNIT["s"]), ("microseconds", MS_PER_UNIT["us"])):
        if YEAR_1990 <= number * scale <= tomorrow():
            return f"; it seems to be in {unit}: send {int(number * scale)}"
    return ""


def _scale(numbers: np.ndarray, unit: TimeUnit) -> np.ndarray | float:
    """The ms of a unit for each number; NaN where there is no unit in which it is a time from 1990 to tomorrow."""
    if unit != "auto":
        return MS_PER_UNIT[unit]
    fits = [(numbers * scale >= YEAR_1990) & (numbers * scale <= tomorrow()) for scale in MS_PER_UNIT.values()]
    return np.select(fits, list(MS_PER_UNIT.values()), np.nan)


def _calendar_time(array: pa.Array) -> Converted:
    """The same for dates and timestamps."""
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("s"))
    ticks_per_s = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[array.type.unit]
    limit = min(YEAR_10000 // 1000 * ticks_per_s, 2**63 - 1)
    ticks = array.cast(pa.int64())
    beyond = pc.fill_null(pc.or_(pc.greater_equal(ticks, limit), pc.less(ticks, -limit)), False)
    inside = pc.if_else(beyond, None, array)  # where a cast would overflow
    ms = inside.cast(pa.timestamp("ms", array.type.tz), safe=False).cast(TIME)
    rows = np.flatnonzero(beyond.to_numpy(zero_copy_only=False))
    return ms, dict.fromkeys(rows.tolist(), "is outside the calendar")


def _compact_dates(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which numbers are dates without separators, 20240131 or 20240131120000, from 1970 to 2099; and the UTC ms of these."""
    is_day = (numbers >= 1970_01_01) & (numbers < 2100_01_01)
    is_second = (numbers >= 1970_01_01_000000) & (numbers < 2100_01_01_000000)
    rows = np.flatnonzero((is_day | is_second) & (np.floor(numbers) == numbers))
    whole = numbers[rows].astype(np.int64)
    day, clock = np.where(is_day[rows], whole, whole // 1_000_000), np.where(is_day[rows], 0, whole % 1_000_000)
    years, months, days = day // 10_000, day // 100 % 100, day % 100
    hours, minutes, seconds = clock // 10_000, clock // 100 % 100, clock % 100
    month = (np.clip(months, 1, 12) - 1 + 12 * (years - 1970)).astype("datetime64[M]")
    date = month.astype("datetime64[D]") + (days - 1)
    sound = (months >= 1) & (months <= 12) & (date.astype("datetime64[M]") == month)
    sound &= (hours < 24) & (minutes < 60) & (seconds < 60)
    ms = date.astype(np.int64) * 86_400_000 + (hours * 3600 + minutes * 60 + seconds) * 1000
    return rows[sound], ms[sound]
