"""Ranges of time hold every row of the runs once, rows of a moment together, in parts of about the same size."""

import numpy as np
import pytest

from rayrec.datasets.runs import Run
from rayrec.datasets.source import Limits
from rayrec.datasets.time_order import time_ranges

LIMITS = Limits(part_rows=1000, batch_rows=10)


def runs_of(times: np.ndarray, runs: int) -> tuple[list[Run], dict[str, np.ndarray]]:
    found, rows = [], {}
    for number, share in enumerate(np.array_split(times, runs)):
        share = np.sort(share)
        rows[str(number)] = share
        starts = share[::10].tolist()
        found.append(Run(str(number), "", len(share), len(share) * 8, starts=starts, end=int(share[-1])))
    return found, rows


@pytest.mark.parametrize("spread", [1, 3, 50, 10**6])
@pytest.mark.parametrize("in_order", [False, True])
def test_every_row_is_in_one_range(spread: int, in_order: bool) -> None:
    times = np.random.default_rng(spread).integers(-spread, spread, 10_003)
    runs, rows = runs_of(np.sort(times) if in_order else times, 37)
    sizes, seen = [], []
    for each in time_ranges(runs, LIMITS):
        held = [rows[part.path][part.first * 10 : part.stop * 10] for part in each.slices]
        inside = [share[(share >= each.begin) & (share < each.end)] for share in held]
        sizes.append(sum(map(len, inside)))
        seen.append((each.begin, each.end, np.concatenate([*inside, np.empty(0, np.int64)])))
    assert np.array_equal(np.sort(np.concatenate([share for *_, share in seen])), np.sort(times))
    assert max(sizes) <= 2500
    bounds = [(begin, end) for begin, end, _ in seen]
    assert bounds == sorted(bounds)
    if spread == 10**6:
        assert len(sizes) == 10
        assert min(sizes) > 500


def test_no_runs_have_no_rows() -> None:
    assert not [each for each in time_ranges([], LIMITS) if each.slices]
