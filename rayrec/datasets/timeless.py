"""Times for the rows of a log that has none: they give the rows of each user a random order, and say to which part of the split
they belong.

A row's time depends on its user, its video and the seed, and on the user's other rows, but neither on files nor on blocks.
"""

import zlib

import numpy as np
import pyarrow as pa

from rayrec.tables import DRAWN_AT, PART_MS


def drawn_times(users: pa.ChunkedArray, videos: pa.ChunkedArray, parts: np.ndarray, seed: int) -> np.ndarray:
    """A time for each row: int64 [rows], within its part (0 training, 1 validation, 2 test) of the times from DRAWN_AT on.

    The rows that a user has in a part are spread evenly over it in random order, so that a cut of the part leaves its share of the
    rows of each user behind it, up to one row. The first of them is at the very beginning, before every cut. Rows of the same user
    and video follow one another.
    """
    user, user_hash = _hashed(users)
    begin = DRAWN_AT + parts.astype(np.int64) * PART_MS
    video_hash = _hashed(videos)[1]
    jitter = _mixed(user_hash ^ np.uint64(seed))
    draw = _mixed(jitter ^ video_hash)
    order = np.lexsort((draw, parts, user))
    starts = np.flatnonzero(np.diff(user[order], prepend=-1) | np.diff(begin[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    place = np.where(rank == 0, 0, (rank + jitter[order] / 2.0**64) / np.repeat(sizes, sizes))
    times = np.empty(len(order), np.int64)
    times[order] = begin[order] + (np.minimum(place, 1 - 2.0**-32) * PART_MS).astype(np.int64)
    return times


def _hashed(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A number for each distinct text, and a hash of the text: int32 and uint64 [rows]."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    hashes = np.fromiter((zlib.crc32(text.encode()) for text in encoded.dictionary.to_pylist()), np.uint64, len(encoded.dictionary))
    return codes, hashes[codes]


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Numbers as even as random ones: the last step of SplitMix64, uint64."""
    numbers = (numbers + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
