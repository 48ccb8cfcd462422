"""What a trained model makes of an item alone, computed once for all items: it does not depend on who asks.

A request then reads rows of matrices in place of embedding its candidates and clicks again: the vectors of an item's fields, and
what each layer that reads an item's fields makes of them (`Embedded.of_items`).

Shapes: U items, E all fields of an item concatenated.
"""

from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import nn

Embed = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

ROWS_AT_ONCE = 8192
CGROUP = Path("/sys/fs/cgroup")
ROOM = 16  # one more row for each so many is set aside when items are appended


class TooLargeError(Exception):
    """The matrices would take more memory than they may."""


def room(device: torch.device, sharing: int = 1) -> float:
    """The bytes that the matrices of a ranker may take on a device: its share of a quarter of what is free now.

    `sharing` rankers at most have the device, this one included.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 4 / sharing
    return min(psutil.virtual_memory().available, _left_to_container()) / 4 / sharing


def _left_to_container() -> float:
    """The bytes that the container of this process may still take, if it has a limit."""
    limit, used = (CGROUP / name for name in ("memory.max", "memory.current"))
    text = limit.read_text().strip() if limit.is_file() and used.is_file() else ""
    return max(0, int(text) - int(used.read_text())) if text.isdigit() else float("inf")


class GrowingRows:
    """The rows of a tensor, behind which more can be appended. Whoever holds the rows of before can go on reading them."""

    def __init__(self, rows: torch.Tensor) -> None:
        self._buffer, self.rows = rows, rows

    @property
    def bytes(self) -> int:
        return self._buffer.nbytes

    def append(self, rows: torch.Tensor) -> None:
        """Takes the time that the new rows take, but for every so many of which all rows are copied."""
        before, after = len(self.rows), len(self.rows) + len(rows)
        if after > len(self._buffer):
            buffer = self._buffer.new_empty(after + after // ROOM, *self._buffer.shape[1:])
            buffer[:before] = self.rows
            self._buffer = buffer
        self._buffer[before:after] = rows
        self.rows = self._buffer[:after]


class FrozenItems:
    """The matrices of all items of a model whose weights no longer change.

    `embed` gives the vectors [X, E] of rows [X] of the item table and the sum of their fields' weights [X]; `rows_U` are those that
    there are. `max_bytes` is the memory that the matrices may take. Raises `TooLargeError` where they would take more.
    """

    def __init__(self, embed: Embed, rows_U: torch.Tensor, max_bytes: float) -> None:
        self._embed, self._max_bytes = embed, max_bytes
        self._outputs: dict[nn.Module, GrowingRows] = {}
        self._layers: dict[nn.Module, Callable[[torch.Tensor], torch.Tensor]] = {}
        self._vectors = self._weights = GrowingRows(torch.empty(0))
        self._weights = self._matrix(rows_U, lambda some: embed(some)[1])
        self._vectors = self._matrix(rows_U, lambda some: embed(some)[0])

    @property
    def bytes(self) -> int:
        """The memory of all matrices."""
        return sum(matrix.bytes for matrix in (self._vectors, self._weights, *self._outputs.values()))

    @property
    def vectors_UE(self) -> torch.Tensor:
        return self._vectors.rows

    @property
    def weights_U(self) -> torch.Tensor:
        """The sum of the weights of each item's fields."""
        return self._weights.rows

    def output(self, layer: nn.Module, compute: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What `compute` makes of all items' vectors [U, ...]. It is computed at the first call for `layer`, which names it."""
        if layer not in self._outputs:
            self._outputs[layer] = self._matrix(self.vectors_UE, compute)
            self._layers[layer] = compute
        return self._outputs[layer].rows

    @torch.inference_mode()
    def append(self, rows: torch.Tensor) -> None:
        """Takes in more rows of the item table, which come behind the others."""
        vectors_UE, weights_U = self._embed(rows)
        self._vectors.append(vectors_UE)
        self._weights.append(weights_U)
        for layer, matrix in self._outputs.items():
            matrix.append(self._layers[layer](vectors_UE))

    def _matrix(self, rows: torch.Tensor, compute: Callable[[torch.Tensor], torch.Tensor]) -> GrowingRows:
        """What `compute` makes of rows, some of them at once."""
        first, *others = rows.split(ROWS_AT_ONCE)
        found = compute(first)
        if found.nbytes / len(first) * len(rows) + self.bytes > self._max_bytes:
            raise TooLargeError
        matrix = found.new_empty(len(rows), *found.shape[1:])
        for number, part in enumerate((first, *others)):
            matrix[number * ROWS_AT_ONCE : number * ROWS_AT_ONCE + len(part)] = found if number == 0 else compute(part)
        return GrowingRows(matrix)
