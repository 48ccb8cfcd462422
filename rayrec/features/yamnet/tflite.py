"""Reads the operators of a TensorFlow Lite file and their constants. Nothing in the file is executed, and no length is trusted.

Such a file is a FlatBuffer (https://flatbuffers.dev/internals): tables that point at one another. Only the fields that a plain
network needs are read; the numbers below are those of TensorFlow's schema.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

IDENTIFIER = b"TFL3"
CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, LOGISTIC = 3, 4, 9, 14  # kinds of operators
ACTIVATION = {CONV_2D: 3, DEPTHWISE_CONV_2D: 4}  # the field of an operator's options with the activation that follows it
RELU, RELU6 = 1, 3
TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 2: np.dtype("<i4"), 9: np.dtype("i1")}  # other types are not read


class TfliteError(ValueError):
    """The file is no TensorFlow Lite file, or it is damaged; the message says why."""


@dataclass(frozen=True)
class Tensor:
    """What an operator reads or writes. Its numbers are `scale * (stored - zero_point)` where there is a scale."""

    values: np.ndarray | None  # None for what is computed, and for types that are not read
    scale: np.ndarray  # float32 [channels], [1], or [0] for a tensor that is not quantised
    zero_point: np.ndarray  # int64


@dataclass(frozen=True)
class Operator:
    """A step of the network. An input that is left out is None."""

    kind: int
    inputs: list[Tensor | None]
    outputs: list[Tensor | None]
    activation: int  # 0 for none


def read_operators(data: bytes) -> list[Operator]:
    """The operators of the file's first graph, in the order in which they are run. Raises `TfliteError`."""
    if data[4:8] != IDENTIFIER:
        raise TfliteError("it is not a TensorFlow Lite file")
    try:
        return _operators(_Table(data, _unpack("<I", data, 0)))
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise TfliteError(f"it is damaged ({error})") from error


def _operators(model: "_Table") -> list[Operator]:
    kinds = [max(code.number(0, "<b"), code.number(3, "<i")) for code in model.tables(1)]
    graph = model.tables(2)[0]
    buffers = model.tables(4)
    tensors = [_tensor(table, buffers) for table in graph.tables(0)]

    def named(numbers: np.ndarray) -> list[Tensor | None]:
        return [None if number < 0 else tensors[number] for number in numbers]

    found = []
    for table in graph.tables(3):
        kind = kinds[table.number(0, "<I")]
        options = table.table(4)
        activation = options.number(ACTIVATION[kind], "<b") if options and kind in ACTIVATION else 0
        found.append(Operator(kind, named(table.array(1, "<i4")), named(table.array(2, "<i4")), activation))
    return found


def _tensor(table: "_Table", buffers: list["_Table"]) -> Tensor:
    quantisation, stored = table.table(4), buffers[table.number(2, "<I")].array(0, "u1")
    kind = TYPES.get(table.number(1, "<b"))
    values = None
    if len(stored) and kind is not None:
        values = stored.view(kind).reshape(table.array(0, "<i4"))
    if quantisation is None:
        return Tensor(values, np.empty(0, np.float32), np.empty(0, np.int64))
    return Tensor(values, quantisation.array(2, "<f4"), quantisation.array(3, "<i8"))


@dataclass(frozen=True)
class _Table:
    """A table at a place of the file. Fields have numbers; a field that is left out has a default."""

    data: bytes
    at: int

    def number(self, field: int, kind: str, default: int = 0) -> int:
        place = self._place(field)
        return default if place is None else _unpack(kind, self.data, place)

    def table(self, field: int) -> "_Table | None":
        place = self._place(field)
        return None if place is None else _Table(self.data, place + _unpack("<I", self.data, place))

    def tables(self, field: int) -> list["_Table"]:
        start, count = self._vector(field)
        offsets = np.frombuffer(self.data, "<u4", count, start)
        return [_Table(self.data, start + 4 * index + int(offset)) for index, offset in enumerate(offsets)]

    def array(self, field: int, kind: str) -> np.ndarray:
        start, count = self._vector(field)
        return np.frombuffer(self.data, kind, count, start)

    def _vector(self, field: int) -> tuple[int, int]:
        """Where a field's list begins, and how many there are in it."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = place + _unpack("<I", self.data, place)
        return start + 4, _unpack("<I", self.data, start)

    def _place(self, field: int) -> int | None:
        layout = self.at - _unpack("<i", self.data, self.at)
        if 4 + 2 * field >= _unpack("<H", self.data, layout):
            return None
        offset = _unpack("<H", self.data, layout + 4 + 2 * field)
        return self.at + offset if offset else None


def _unpack(kind: str, data: bytes, place: int) -> int:
    """One number. A negative place would be counted from the end of the file."""
    if place < 0:
        raise TfliteError("a place before its beginning")
    return int(struct.unpack_from(kind, data, place)[0])
