"""The order of the log in time, and its ranges of time that are sorted apart from each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayrec.datasets.runs import Run
from rayrec.datasets.source import Limits

BEGIN, END = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Slice:
    """Batches of a run, of which some rows may lie outside the range."""

    path: str
    first: int
    stop: int


@dataclass(frozen=True)
class TimeRange:
    """The impressions of the times `begin` <= t < `end` in these slices."""

    begin: int
    end: int
    slices: list[Slice]


def in_time_order(interactions: pa.Table) -> pa.Table:
    """The impressions, sorted by the time they were shown.

    Among those that were shown at the same time, the rows of one request stay together, in the order of the file.
    """
    times = interactions["shown_at"].to_numpy()
    order = np.argsort(times, kind="stable")
    requests = interactions["request_id"]
    if requests.null_count < len(requests):
        moments = np.cumsum(np.diff(times[order], prepend=times[order[0]]) != 0)
        order = order[_by_request(moments, _codes(requests)[order])]
    return interactions if np.array_equal(order, np.arange(len(order))) else interactions.take(pa.array(order))


def _codes(requests: pa.ChunkedArray) -> np.ndarray:
    """A number for each request; a row without a request counts as a request of one row."""
    encoded = requests.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    alone = np.flatnonzero(codes < 0)
    codes[alone] = len(encoded.dictionary) + np.arange(len(alone))
    return codes


def _by_request(moments: np.ndarray, requests: np.ndarray) -> np.ndarray:
    """The order in which the rows of one moment and one request stand together, where the first of them stands."""
    groups = moments * (requests.max() + 1) + requests
    heads = np.flatnonzero(np.diff(groups, prepend=-1))
    alone = np.diff(moments[heads], prepend=-1, append=-1) != 0  # of other moments than the heads before and behind
    crowded = groups[heads[~(alone[1:] & alone[:-1])]]
    if len(np.unique(crowded)) == len(crowded):
        return np.arange(len(groups))  # as most logs are written
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(first[inverse], kind="stable")


def time_ranges(runs: Sequence[Run], limits: Limits) -> list[TimeRange]:
    """Ranges of about a part file each, in time order; together they have all rows of the runs.

    The rows of one moment are in one range. Only a moment with more rows than a part file has several, each with some of the runs.
    """
    starts = np.concatenate([run.starts for run in runs]) if runs else np.empty(0, np.int64)
    sizes = np.concatenate([_batch_sizes(run, limits.batch_rows) for run in runs]) if runs else starts
    total = int(sizes.sum())
    size = sum(run.size for run in runs)
    count = max(1, round(max(total / limits.part_rows, size / limits.part_bytes)))
    by_time = np.argsort(starts, kind="stable")
    reached = np.cumsum(sizes[by_time])
    cuts = starts[by_time][np.searchsorted(reached, total * np.arange(1, count) / count)] if total else starts
    crowded = {int(cut) for cut, times in zip(*np.unique(cuts, return_counts=True), strict=True) if times > 1}
    bounds = sorted({*map(int, cuts), *(moment + 1 for moment in crowded)})
    ranges = []
    for begin, end in zip([BEGIN, *bounds], [*bounds, END], strict=True):
        slices = [_slice(run, begin, end) for run in runs if run.starts[0] < end and run.end >= begin]
        groups = _grouped(slices, limits) if begin in crowded else [slices]
        ranges += [TimeRange(begin, end, group) for group in groups]
    return ranges


def _batch_sizes(run: Run, batch_rows: int) -> np.ndarray:
    return np.append(np.full(len(run.starts) - 1, batch_rows), run.rows - batch_rows * (len(run.starts) - 1))


def _slice(run: Run, begin: int, end: int) -> Slice:
    first = max(0, int(np.searchsorted(run.starts, begin)) - 1)
    return Slice(run.path, first, int(np.searchsorted(run.starts, end)))


def _grouped(slices: list[Slice], limits: Limits) -> list[list[Slice]]:
    """The slices in groups of about a part file each."""
    groups: list[list[Slice]] = [[]]
    rows = 0
    for each in slices:
        held = (each.stop - each.first) * limits.batch_rows
        if groups[-1] and rows + held > limits.part_rows:
            groups.append([])
            rows = 0
        groups[-1].append(each)
        rows += held
    return groups
