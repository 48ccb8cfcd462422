"""Huffman codes: against a slow reference and the bounds of entropy, and streams that are damaged."""

import heapq
from dataclasses import replace

import numpy as np
import pytest

from rayrec.features.compression.huffman import ABSENT, LANE, MAX_BITS, HuffmanError, Stream, code_lengths, decode, encode

RNG = np.random.default_rng(3)


def slow_lengths(counts: list[int]) -> list[int]:
    """Huffman's algorithm as in a textbook: the two rarest trees become one, and all their leaves go one step down."""
    lengths = [0] * len(counts)
    heap = [(count, symbol, [symbol]) for symbol, count in enumerate(counts) if count]
    heapq.heapify(heap)
    while len(heap) > 1:
        (a, number, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in [*left, *right]:
            lengths[symbol] += 1
        heapq.heappush(heap, (a + b, number, [*left, *right]))
    return lengths


def slow_symbols(stream: Stream) -> list[int]:
    """Decoding bit by bit, with the canonical codes from the definition in RFC 1951, section 3.2.2."""
    lengths = stream.lengths.tolist()
    codes, code = dict[str, int](), 0
    for size in range(1, MAX_BITS + 1):
        for symbol, own in enumerate(lengths):
            if own == size:
                codes[f"{code:0{size}b}"] = symbol
                code += 1
        code <<= 1
    bits = "".join(f"{byte:08b}" for byte in stream.data)
    found, word = list[int](), ""
    for bit in bits:
        word += bit
        if word in codes:
            found.append(codes[word])
            word = ""
    return found[: stream.count]


@pytest.mark.parametrize("weights", [[1, 1], [5, 0, 3, 1], [1, 1, 2, 3, 5, 8, 13], list(range(20, 220))])
def test_lengths_are_as_good_as_the_textbooks(weights: list[int]) -> None:
    best = sum(count * length for count, length in zip(weights, slow_lengths(weights), strict=True))
    found = code_lengths(np.array(weights))
    assert (np.array(weights) * found.clip(0)).sum() == best
    assert [length == ABSENT for length in found] == [count == 0 for count in weights]


def test_long_codes_are_limited_at_the_least_cost() -> None:
    """Fibonacci numbers make the longest codes."""
    counts = np.array([1, 1, *np.cumsum([1, 2])])
    while len(counts) < 24:
        counts = np.append(counts, counts[-1] + counts[-2])
    unlimited = np.array(slow_lengths(counts.tolist()))
    found = code_lengths(counts)
    assert unlimited.max() > MAX_BITS
    assert found.max() == MAX_BITS
    assert (0.5 ** found.astype(float)).sum() == 1
    assert (counts * unlimited).sum() < (counts * found).sum() < 1.01 * (counts * unlimited).sum()


def test_streams_are_decoded_as_by_the_slow_reference_and_are_as_short_as_entropy_allows() -> None:
    shares = np.array([0.4, 0.3, 0.2, 0.06, 0.03, 0.01])
    symbols = RNG.choice(6, 2 * LANE + 17, p=shares).astype(np.uint8)
    stream = encode(symbols, 6)
    assert slow_symbols(stream) == symbols.tolist()
    assert decode([stream])[0].tolist() == symbols.tolist()
    frequencies = np.bincount(symbols) / len(symbols)
    entropy = -(frequencies * np.log2(frequencies)).sum() * len(symbols)
    assert entropy <= stream.lanes.sum() <= entropy + len(symbols)
    assert stream.lanes.sum() < 1.05 * entropy
    assert len(stream.data) == -(-int(stream.lanes.sum()) // 8)


@pytest.mark.parametrize("count", [0, 1, 2, LANE - 1, LANE, LANE + 1, 5 * LANE])
def test_any_number_of_symbols_of_any_alphabet_comes_back(count: int) -> None:
    kinds = [RNG.integers(0, alphabet, count).astype(np.uint8) for alphabet in (1, 2, 3, 32, 256)]
    kinds.append((RNG.geometric(0.3, count) - 1).clip(0, 255).astype(np.uint8))
    streams = [encode(symbols, 256) for symbols in kinds]
    for symbols, found in zip(kinds, decode(streams), strict=True):
        assert found.dtype == np.uint8
        assert np.array_equal(symbols, found)
    assert streams[0].data == b""  # a lone symbol needs no bits


def test_damaged_streams_are_refused() -> None:
    stream = encode(RNG.integers(0, 5, 3000).astype(np.uint8), 5)
    more = stream.lengths.copy()
    more[0] += 1
    damaged = [
        replace(stream, lengths=more),  # a code that no bits lead to
        replace(stream, lengths=np.full(5, 1, np.int8)),  # more codes than there is room for
        replace(stream, lengths=np.full(5, ABSENT, np.int8)),
        replace(stream, lengths=np.full(5, MAX_BITS + 2, np.int8)),
        replace(stream, count=stream.count + LANE),
        replace(stream, count=stream.count - 1),
        replace(stream, data=stream.data[:-1]),
        replace(stream, data=bytes(len(stream.data))),
        replace(stream, lanes=stream.lanes[::-1].copy()),
    ]
    for one in damaged:
        with pytest.raises(HuffmanError):
            decode([one])
