"""The order in which training visits its examples: block after block, the rows of each block shuffled.

A block is a random sample of the log (`blocks.py`). Reading one block after another therefore mixes the log well enough, and no
more than one block is ever held in a new order. That is what lets examples be read from files (`shares.py`) in the same order that
they have in memory. The order follows from (seed, epoch, number of rows) alone, and not from how the rows are shared among files
and workers.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor


class Columns(NamedTuple):
    """Examples as tensors on one device, with the types of `Examples`."""

    user: Tensor
    item: Tensor
    clicked: Tensor
    at: Tensor
    end: Tensor
    context: Tensor
    goals: Tensor | None = None

    @property
    def given(self) -> tuple[Tensor, ...]:
        """The columns, without that of goals if there are none."""
        return tuple(column for column in self if column is not None)

    def take(self, rows: slice | Tensor) -> "Columns":
        return Columns(*(column[rows] for column in self.given))


class Block(NamedTuple):
    """The examples of a block that a worker has, and where each stands among all examples of the block in time order."""

    columns: Columns
    row: np.ndarray | None  # int [examples]; None where they are all examples of the block in time order


class Rows(NamedTuple):
    """Examples in the order of training, and the position of each among all examples of the epoch."""

    columns: Columns
    position: np.ndarray  # int64 [examples], ascending
    until: int  # no later rows have a position below this one

    def take(self, rows: slice) -> "Rows":
        return Rows(self.columns.take(rows), self.position[rows], self.until)


class ExampleSource(Protocol):
    """Where training examples come from: `Examples` in memory, or the files of some shards.

    A worker may have only a share of the examples. `len` and `block_sizes` count those of all workers.
    """

    def __len__(self) -> int: ...

    @property
    def block_sizes(self) -> np.ndarray: ...

    def blocks(self, indices: Sequence[int], device: torch.device) -> Iterator[Block]: ...


def shuffled_blocks(source: ExampleSource, device: torch.device, seed: int, epoch: int, first: int) -> Iterator[Rows]:
    """The blocks in a random order, each with its rows in a random order, from the position `first` of the epoch on."""
    order = np.random.default_rng((seed, epoch)).permutation(len(source.block_sizes))
    ends = np.cumsum(source.block_sizes[order])
    skipped = int(np.searchsorted(ends, first, side="right"))  # blocks that are left out altogether
    for place, block in enumerate(source.blocks(order[skipped:].tolist(), device), start=skipped):
        size = int(source.block_sizes[order[place]])
        chosen = np.random.default_rng((seed, epoch, 1 + int(order[place]))).permutation(size)
        index = np.arange(size)
        if block.row is not None:
            own = np.full(size, -1)
            own[block.row] = np.arange(len(block.row))
            chosen = own[chosen]  # -1 for the rows of other workers
            index = np.flatnonzero(chosen >= 0)
            chosen = chosen[index]
        position = ends[place] - size + index
        kept = int(np.searchsorted(position, first))
        yield Rows(block.columns.take(torch.from_numpy(chosen[kept:]).to(device)), position[kept:], int(ends[place]))


def by_batch(blocks: Iterable[Rows], size: int, first: int, last: int) -> Iterator[Rows]:
    """A worker's rows of each batch, from the one that begins at the position `first` to the end of the epoch at `last`.

    A batch has the next `size` positions, the last one what is left. The rows of a batch may be none.
    """
    rest: Rows | None = None
    for block in blocks:
        rows = block if rest is None else _joined(rest, block)
        ends = [end for end in range(first + size, last + size, size) if min(end, last) <= block.until]
        start = 0
        for stop in np.searchsorted(rows.position, ends).tolist():
            yield rows.take(slice(start, stop))
            start = stop
        first, rest = (ends[-1] if ends else first), rows.take(slice(start, None))


def _joined(one: Rows, other: Rows) -> Rows:
    columns = Columns(*map(torch.cat, zip(one.columns.given, other.columns.given, strict=True)))
    return Rows(columns, np.concatenate([one.position, other.position]), other.until)
