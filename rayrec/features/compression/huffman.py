"""Canonical Huffman codes of at most `MAX_BITS` bits, written and read with NumPy.

A stream of symbols is cut into lanes of `LANE` symbols, whose sizes in bits are stored beside it. All lanes of all streams are
decoded side by side, one symbol of each at a time, so that a network of millions of weights is read in a second.
"""

from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from rayrec.errors import RayrecError

MAX_BITS = 12
LANE = 1024  # symbols
ABSENT = -1  # the length of the code of a symbol that does not occur; a lone symbol needs no bits, so that its code has length 0
TABLE = 1 << MAX_BITS
ENCODED_AT_ONCE = 1 << 18  # symbols, so that memory stays bounded


class HuffmanError(RayrecError):
    """A stream is damaged; the message says how."""


@dataclass(frozen=True)
class Stream:
    """Encoded symbols."""

    lengths: np.ndarray  # int8 [symbols of the alphabet], the bits of each code, or ABSENT
    count: int  # of encoded symbols
    lanes: np.ndarray  # uint16 [ceil(count / LANE)], the bits of each lane
    data: bytes


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """The lengths int8 [symbols] of the best code of at most `MAX_BITS` bits, for how often each symbol occurs.

    By the package-merge algorithm (Larmore and Hirschberg, 1990): in its last list of packages, a symbol occurs as often as its
    code has bits.
    """
    lengths = np.full(len(counts), ABSENT, np.int8)
    used = np.flatnonzero(counts)
    lengths[used] = 0
    leaves = [(int(counts[symbol]), (int(symbol),)) for symbol in used]
    singles: list[tuple[int, tuple[int, ...]]] = sorted(leaves, key=itemgetter(0))
    packages = singles
    for _ in range(MAX_BITS - 1):
        pairs = [(a + b, left + right) for (a, left), (b, right) in zip(packages[::2], packages[1::2], strict=False)]
        packages = sorted([*singles, *pairs], key=itemgetter(0))
    for _, symbols in packages[: max(0, 2 * len(used) - 2)]:
        np.add.at(lengths, list(symbols), 1)
    return lengths


def encode(symbols: np.ndarray, alphabet: int) -> Stream:
    """A stream of uint8 symbols, all below `alphabet` (at most 256)."""
    lengths = code_lengths(np.bincount(symbols, minlength=alphabet))
    order = _canonical(lengths)
    codes = np.zeros(alphabet, np.int64)
    spans = 1 << (MAX_BITS - lengths[order].astype(np.int64))
    codes[order] = (np.cumsum(spans) - spans) >> (MAX_BITS - lengths[order])
    sizes = lengths[symbols].astype(np.int64)
    starts = range(0, len(symbols), ENCODED_AT_ONCE)
    bits = [_bits(codes[symbols[at : at + ENCODED_AT_ONCE]], sizes[at : at + ENCODED_AT_ONCE]) for at in starts]
    lanes = np.add.reduceat(sizes, np.arange(0, len(symbols), LANE)) if len(symbols) else np.empty(0)
    data = np.packbits(np.concatenate(bits)).tobytes() if bits else b""
    return Stream(lengths, len(symbols), lanes.astype(np.uint16), data)


def decode(streams: list[Stream]) -> list[np.ndarray]:
    """The symbols of each stream, uint8. Raises `HuffmanError` for streams that no `encode` has written."""
    for stream in streams:
        _check(stream)
    lanes = np.array([-(-stream.count // LANE) for stream in streams], np.int64)
    if not lanes.sum():
        return [np.empty(0, np.uint8) for _ in streams]
    data_starts = np.cumsum([0, *(len(stream.data) for stream in streams[:-1])])
    bits = [stream.lanes.astype(np.int64) for stream in streams]
    ends = np.concatenate([8 * start + np.cumsum(own) for start, own in zip(data_starts, bits, strict=True)])
    counts = np.concatenate([_lane_counts(stream.count) for stream in streams])
    order = np.argsort(-counts, kind="stable")  # at each step, the lanes that still have symbols come first
    at = (ends - np.concatenate(bits))[order]
    rows = _all_lanes(streams, at, np.repeat(np.arange(len(streams)), lanes)[order], counts[order])
    if (at != ends[order]).any():
        raise HuffmanError("the codes of a stream do not end where they should")
    found = np.empty_like(rows)
    found[order] = rows
    last = np.cumsum(lanes)
    return [found[end - count : end].reshape(-1)[: stream.count] for stream, end, count in zip(streams, last, lanes, strict=True)]


def _all_lanes(streams: list[Stream], at: np.ndarray, which: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The symbols uint8 [lanes, steps]; `at`, the bit where each lane is, moves on to its end. Lanes come by falling counts."""
    symbols, sizes = (np.concatenate(tables) for tables in zip(*map(_table, streams), strict=True))
    # A damaged lane may go on behind its end, but never further than this padding.
    data = np.frombuffer(b"".join(stream.data for stream in streams) + bytes(LANE * MAX_BITS // 8 + 3), np.uint8).astype(np.uint32)
    words = data[:-2] << 16 | data[1:-1] << 8 | data[2:]
    base = which * TABLE
    found = np.zeros((counts[0], len(counts)), np.uint8)
    active = len(counts) - np.searchsorted(counts[::-1], np.arange(counts[0]), side="right")
    for step, lanes in enumerate(active.tolist()):
        place = at[:lanes]
        window = words[place >> 3] >> (MAX_BITS - (place & 7)) & (TABLE - 1)
        entry = base[:lanes] + window
        found[step, :lanes] = symbols[entry]
        place += sizes[entry]
    return np.ascontiguousarray(found.T)


def _check(stream: Stream) -> None:
    """Raises `HuffmanError` unless the code is complete and the sizes agree."""
    lengths = stream.lengths.astype(np.int64)
    known = lengths[lengths != ABSENT]
    if stream.count and (known.max(initial=0) > MAX_BITS or (1 << (MAX_BITS - known.clip(0, MAX_BITS))).sum() != TABLE):
        raise HuffmanError("the lengths of the codes of a stream do not make a Huffman code")
    if len(stream.lanes) != -(-stream.count // LANE) or -(-int(stream.lanes.sum()) // 8) != len(stream.data):
        raise HuffmanError("a stream is not as long as its lanes")


def _lane_counts(count: int) -> np.ndarray:
    """The symbols of each lane."""
    return np.diff([*range(0, count, LANE), count])


def _canonical(lengths: np.ndarray) -> np.ndarray:
    """The symbols that occur in the order of their codes: the shorter first, then the lower."""
    order = np.lexsort((np.arange(len(lengths)), lengths))
    return order[lengths[order] != ABSENT]


def _table(stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """For each value of the next `MAX_BITS` bits: the symbol whose code they begin with, and the length of that code."""
    if not stream.count:
        return np.zeros(TABLE, np.uint8), np.zeros(TABLE, np.int64)
    order = _canonical(stream.lengths)
    lengths = stream.lengths[order].astype(np.int64)
    spans = 1 << (MAX_BITS - lengths)
    return np.repeat(order.astype(np.uint8), spans), np.repeat(lengths, spans)


def _bits(codes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The bits of codes of these sizes, one after another: uint8 [sum of the sizes], each 0 or 1."""
    ends = np.repeat(np.cumsum(sizes), sizes)
    places = ends - 1 - np.arange(len(ends))  # how many bits of the code follow
    return (np.repeat(codes, sizes) >> places & 1).astype(np.uint8)
