"""The `.rrz` file of a compressed network: Huffman-coded weights, a header in JSON, a checksum. No pickle; nothing in it is run.

    8 bytes    the mark `rayrec_z`
    4 bytes    the length of the packed header, little-endian, as all numbers are
    32 bytes   the SHA-256 of all that follows
    header     JSON, packed by zlib: facts about the network, and the list of its tensors
    body       the tensors, in the order of that list, without gaps

A tensor of shared weights (Han et al., 2016) is a codebook, float32, and two Huffman streams. The first says how many zeros come
before each weight that is not pruned: a symbol below 255 is their number, and 255 stands for 255 zeros with no weight behind
them. The second gives the codebook's index of each such weight. Where few weights are zero, zero is in the codebook instead.
Other tensors, such as biases and those of batch norms, are float16. A stream is the lengths of its codes plus one, two to a byte
(0: the symbol does not occur); the bits of each lane, two bytes each; and the codes.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayrec.config import Compression, ConfigError
from rayrec.errors import RayrecError
from rayrec.features.compression.huffman import ABSENT, LANE, HuffmanError, Stream, decode, encode
from rayrec.workspace.files import open_input

MARK = b"rayrec_z"
FORMAT = 1
SUFFIX = ".rrz"
PREFIX = len(MARK) + 4 + 32
MAX_HEADER = 1 << 24  # bytes, unpacked
MAX_VALUES = 256
SKIP = 255  # the symbol for so many zeros with no weight behind them

Shapes = Mapping[str, tuple[int, ...]]


class CompressedFileError(RayrecError):
    """A file is no compressed network, or a damaged one; the message says how."""


@dataclass(frozen=True)
class SharedWeights:
    """A tensor most of whose weights are zero or one of a few values."""

    shape: tuple[int, ...]
    codebook: np.ndarray  # float32 [values], at most `MAX_VALUES`
    places: np.ndarray  # int64 [weights], where the weights that are not pruned are in the flat tensor, ascending
    indices: np.ndarray  # uint8 [weights], the value of each

    def dense(self) -> np.ndarray:
        """The tensor, float32."""
        weights = np.zeros(math.prod(self.shape), np.float32)
        weights[self.places] = self.codebook[self.indices]
        return weights.reshape(self.shape)


@dataclass(frozen=True)
class Contents:
    """What a file holds: facts about the network, the tensors as float32, and the bytes that each takes in the file."""

    facts: dict[str, Any]
    tensors: dict[str, np.ndarray]
    sizes: dict[str, int]


def write(facts: Mapping[str, Any], shared: Mapping[str, SharedWeights], plain: Mapping[str, np.ndarray]) -> bytes:
    """A file of these tensors. Those of `plain` are rounded to float16."""
    rows, body = list[dict[str, Any]](), list[bytes]()
    for name, tensor in shared.items():
        forms = [_coded(form) for form in (tensor, _with_zero(tensor)) if len(form.codebook) <= MAX_VALUES]
        row, data = min(forms, key=lambda form: len(form[1]))
        rows.append({"name": name, "shape": tensor.shape, **row})
        body.append(data)
    for name, array in plain.items():
        rows.append({"name": name, "shape": array.shape})
        body.append(array.astype("<f2").tobytes())
    header = zlib.compress(json.dumps({"format": FORMAT, **facts, "tensors": rows}, separators=(",", ":")).encode(), 9)
    rest = header + b"".join(body)
    return MARK + len(header).to_bytes(4, "little") + hashlib.sha256(rest).digest() + rest


def _coded(tensor: SharedWeights) -> tuple[dict[str, Any], bytes]:
    """What the header says of a tensor, and its bytes."""
    gaps, indices = encode(_gaps(tensor.places), SKIP + 1), encode(tensor.indices, len(tensor.codebook))
    row = {"values": len(tensor.codebook), "gaps": _row(gaps), "indices": _row(indices)}
    return row, tensor.codebook.astype("<f4").tobytes() + _packed(gaps) + _packed(indices)


def _with_zero(tensor: SharedWeights) -> SharedWeights:
    """The same weights, with zero as one of the values: this takes fewer bytes where less than about two thirds are zero."""
    indices = np.zeros(math.prod(tensor.shape), np.uint8)
    indices[tensor.places] = tensor.indices + 1
    return SharedWeights(tensor.shape, np.concatenate([np.zeros(1, np.float32), tensor.codebook]), np.arange(len(indices)), indices)


def read_facts(data: bytes) -> dict[str, Any]:
    """The header of a file, with its `tensors`. Raises `CompressedFileError` for a file that is damaged, or that is none."""
    if data[: len(MARK)] != MARK or len(data) < PREFIX:
        raise CompressedFileError(f"it is not a compressed network (it does not begin with {MARK.decode()}), or it is cut off")
    if hashlib.sha256(data[PREFIX:]).digest() != data[PREFIX - 32 : PREFIX]:
        raise CompressedFileError("it is damaged or cut off (its SHA-256 differs)")
    try:
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(data[PREFIX : PREFIX + _header_size(data)], MAX_HEADER)
        facts: dict[str, Any] = json.loads(text) if unpacking.eof else {}
    except (zlib.error, ValueError) as error:
        raise CompressedFileError(f"its header can't be read ({error})") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("tensors"), list):
        raise CompressedFileError("its header is none of a compressed network")
    if facts.get("format") != FORMAT:
        raise CompressedFileError(f"it has format {facts.get('format')!r}, but this version of rayrec reads format {FORMAT}")
    return facts


def read(data: bytes, shapes: Shapes) -> Contents:
    """The tensors, which must have these names and shapes: nothing larger is allocated, whatever the file says.

    Raises `CompressedFileError` for a file that is damaged, or of another network.
    """
    facts = read_facts(data)
    try:
        _check_names(facts["tensors"], shapes)
        reader = _Reader(data, PREFIX + _header_size(data))
        shared, plain, sizes = dict[str, tuple[np.ndarray, Stream, Stream]](), dict[str, np.ndarray](), dict[str, int]()
        for row in facts["tensors"]:
            name, begin = row["name"], reader.at
            if "values" in row:
                shared[name] = _read_shared(reader, row, math.prod(shapes[name]))
            else:
                plain[name] = (
                    np.frombuffer(reader.take(2 * math.prod(shapes[name])), "<f2").astype(np.float32).reshape(shapes[name])
                )
            sizes[name] = reader.at - begin
        if reader.at != len(data):
            raise CompressedFileError(f"it has {len(data) - reader.at} bytes too many")
        symbols = iter(decode([stream for _, gaps, indices in shared.values() for stream in (gaps, indices)]))
        found = {name: _dense(shapes[name], book, next(symbols), next(symbols)) for name, (book, _, _) in shared.items()}
    except HuffmanError as error:
        raise CompressedFileError(f"it is damaged: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CompressedFileError(f"its header does not describe tensors ({type(error).__name__}: {error})") from error
    return Contents(facts, {row["name"]: (found | plain)[row["name"]] for row in facts["tensors"]}, sizes)


def read_configured(compression: Compression) -> bytes:
    """The file that the config names. Raises `ConfigError` if it can't be opened."""
    setting = f"features.image.compression.file={compression.file}"
    try:
        with open_input(compression.file, CompressedFileError) as file:
            return file.read()
    except CompressedFileError as error:
        raise ConfigError(f"{setting}: {error}; `rayrec compress CONFIG` makes it") from error


def in_words(compression: Compression) -> str:
    """How far the configured file is compressed, and from which weights, as `compressed 10.3x from trained weights (torchvision)`.

    Raises `ConfigError` for a file that can't be used.
    """
    data = read_configured(compression)
    try:
        facts = read_facts(data)
        return f"compressed {facts['original_bytes'] / len(data):.1f}x, from {facts['weights']}"
    except (CompressedFileError, KeyError, TypeError) as error:
        raise ConfigError(f"features.image.compression.file={compression.file}: {error}") from error


class _Reader:
    """Takes bytes one after another, and no more than there are."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise CompressedFileError(f"it should have {count} more bytes behind byte {self.at}, and ends at {len(self.data)}")
        self.at += count
        return self.data[self.at - count : self.at]


def _header_size(data: bytes) -> int:
    return int.from_bytes(data[len(MARK) : len(MARK) + 4], "little")


def _check_names(rows: list[dict[str, Any]], shapes: Shapes) -> None:
    found = {row["name"]: tuple(row["shape"]) for row in rows}
    for name in [*found, *shapes]:
        if found.get(name) != shapes.get(name):
            there, wanted = (of.get(name, "none") for of in (found, shapes))
            raise CompressedFileError(f"it is of another network: tensor {name} has the shape {there} there, and {wanted} here")
    if len(found) != len(rows):
        raise CompressedFileError("it names a tensor twice")


def _row(stream: Stream) -> list[int]:
    """What the header says of a stream: symbols of the alphabet that may occur, encoded symbols, bytes of the codes."""
    return [_alphabet(stream), stream.count, len(stream.data)]


def _alphabet(stream: Stream) -> int:
    used = np.flatnonzero(stream.lengths != ABSENT)
    return int(used[-1]) + 1 if len(used) else 0


def _packed(stream: Stream) -> bytes:
    nibbles = (stream.lengths[: _alphabet(stream)] + 1).astype(np.uint8)
    nibbles = np.pad(nibbles, (0, len(nibbles) % 2))
    return (nibbles[::2] << 4 | nibbles[1::2]).tobytes() + stream.lanes.astype("<u2").tobytes() + stream.data


def _read_stream(reader: _Reader, row: list[int], alphabet: int, max_count: int) -> Stream:
    used, count, size = row
    if not (0 <= used <= alphabet and 0 <= count <= max_count):
        raise CompressedFileError(f"a stream has {count} symbols of an alphabet of {used}, for a tensor of {max_count} weights")
    nibbles = np.frombuffer(reader.take(-(-used // 2)), np.uint8)
    lengths = np.stack([nibbles >> 4, nibbles & 15], axis=1).reshape(-1)[:used].astype(np.int8) - 1
    lanes = np.frombuffer(reader.take(2 * -(-count // LANE)), "<u2")
    return Stream(lengths, count, lanes, reader.take(size))


def _read_shared(reader: _Reader, row: dict[str, Any], weights: int) -> tuple[np.ndarray, Stream, Stream]:
    """The codebook, the gaps and the indices of a tensor of so many weights."""
    values = row["values"]
    if not 0 <= values <= MAX_VALUES:
        raise CompressedFileError(f"a codebook has {values} values; at most {MAX_VALUES} are possible")
    codebook = np.frombuffer(reader.take(4 * values), "<f4").astype(np.float32)
    gaps = _read_stream(reader, row["gaps"], SKIP + 1, weights)
    return codebook, gaps, _read_stream(reader, row["indices"], values, weights)


def _gaps(places: np.ndarray) -> np.ndarray:
    """The symbols of the first stream, uint8."""
    zeros = np.diff(places, prepend=-1) - 1
    skips = zeros // SKIP
    symbols = np.full(len(places) + int(skips.sum()), SKIP, np.uint8)
    symbols[np.arange(len(places)) + np.cumsum(skips)] = zeros % SKIP
    return symbols


def _dense(shape: tuple[int, ...], codebook: np.ndarray, gaps: np.ndarray, indices: np.ndarray) -> np.ndarray:
    present = gaps != SKIP
    places = (np.cumsum(gaps.astype(np.int64) + present) - 1)[present]
    if len(places) != len(indices) or (len(places) and places[-1] >= math.prod(shape)):
        raise CompressedFileError(f"the places of {len(indices)} weights of a tensor of shape {shape} do not fit it")
    return SharedWeights(shape, codebook, places, indices).dense()
