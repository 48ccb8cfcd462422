"""To which block of the training split a row belongs.

A block is a random sample of the log: a hash of the row number says to which block a row belongs. Training visits block after block
(`shuffling.py`).
"""

import numpy as np

BLOCK_ROWS = 2**20  # about this many examples are shuffled together
MAX_BLOCKS = 512  # each is a batch in every file of a shard; very long logs have larger blocks


def block_count(rows: int) -> int:
    return min(max(1, round(rows / BLOCK_ROWS)), MAX_BLOCKS)


def block_indices(first: int, last: int, count: int) -> np.ndarray:
    """The block, out of `count`, of each row from `first` to before `last`: uint16 [last - first]."""
    mixed = np.arange(first, last, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # the finaliser of SplitMix64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    return (mixed % np.uint64(count)).astype(np.uint16)
