"""The order in which training visits its examples: block after block, the rows of each block shuffled.

A block is a random sample of the log: a hash of the row number says to which block a row belongs. Reading one block after another
therefore mixes the log well enough, and no more than one block is ever held in a new order. That is what lets examples be streamed
from files (`rayrec/stages/on_ray/streaming.py`) in the same order that they have in memory. The order follows from (seed, epoch,
number of rows) alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

BLOCK_ROWS = 2**20  # about this many examples are shuffled together
MAX_BLOCKS = 512  # each is an open file while the blocks are written; very long logs have larger blocks


class Columns(NamedTuple):
    """Examples as tensors on one device, with the types of `Examples`."""

    user: Tensor
    item: Tensor
    clicked: Tensor
    at: Tensor
    end: Tensor
    context: Tensor

    def take(self, rows: slice | Tensor) -> "Columns":
        return Columns(*(column[rows] for column in self))


class ExampleSource(Protocol):
    """Where training examples come from: `Examples` in memory, or files that hold the same blocks."""

    def __len__(self) -> int: ...

    @property
    def block_sizes(self) -> np.ndarray: ...

    def blocks(self, indices: Sequence[int], device: torch.device) -> Iterator[Columns]: ...


def block_count(rows: int) -> int:
    return min(max(1, round(rows / BLOCK_ROWS)), MAX_BLOCKS)


def block_indices(first: int, last: int, count: int) -> np.ndarray:
    """The block, out of `count`, of each row from `first` to before `last`: uint16 [last - first]."""
    mixed = np.arange(first, last, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # the finaliser of SplitMix64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    return (mixed % np.uint64(count)).astype(np.uint16)


def shuffled_blocks(source: ExampleSource, device: torch.device, seed: int, epoch: int, skip_rows: int) -> Iterator[Columns]:
    """The blocks in a random order, each with its rows in a random order, without the first `skip_rows` rows."""
    order = np.random.default_rng((seed, epoch)).permutation(len(source.block_sizes))
    ends = np.cumsum(source.block_sizes[order])
    skipped = int(np.searchsorted(ends, skip_rows, side="right"))  # blocks that are left out altogether
    rows_to_skip = skip_rows - (int(ends[skipped - 1]) if skipped else 0)
    for index, block in zip(order[skipped:], source.blocks(order[skipped:].tolist(), device), strict=True):
        rows = np.random.default_rng((seed, epoch, 1 + int(index))).permutation(len(block.user))[rows_to_skip:]
        chosen, rows_to_skip = torch.from_numpy(rows).to(device), 0
        yield block.take(chosen)


def rebatch(blocks: Iterable[Columns], size: int) -> Iterator[Columns]:
    """The rows of all blocks in pieces of `size`, across the borders of blocks; the last piece may be smaller."""
    rest: Columns | None = None
    for block in blocks:
        rows = block if rest is None else Columns(*map(torch.cat, zip(rest, block, strict=True)))
        whole = len(rows.user) // size * size
        for start in range(0, whole, size):
            yield rows.take(slice(start, start + size))
        rest = rows.take(slice(whole, None))
    if rest is not None and len(rest.user):
        yield rest
