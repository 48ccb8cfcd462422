"""The log as compact training examples.

An example is a few numbers (user, item, label, time, position among its user's clicks, context). Users, items and histories are
joined by index when a batch is made, on the device. `history.py` explains why a history can't hold the future.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rayrec.config import Ranker
from rayrec.data.blocks import Columns, block_count, block_indices
from rayrec.data.context import ContextEncoder, columns_of
from rayrec.data.fields import indices_of
from rayrec.data.history import ClickHistory


@dataclass(frozen=True)
class Examples:
    """Impressions in time order: 25 bytes each, 2 more for each context field, and 4 where there are several blocks."""

    user: np.ndarray  # int32
    item: np.ndarray  # int32
    clicked: np.ndarray  # bool
    at: np.ndarray  # int64, UTC ms
    end: np.ndarray  # int64, position in the click array behind the last click before `at`
    context: np.ndarray  # int16 or int32 [rows, C]
    _resident: dict[torch.device, tuple[Columns, Tensor | None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        return len(self.user)

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        return self.user, self.item, self.clicked, self.at, self.end, self.context

    def take(self, rows: slice) -> "Examples":
        return Examples(*(column[rows] for column in self.columns))

    @property
    def nbytes(self) -> int:
        """The bytes that they take in memory, or on one device."""
        order = 4 * len(self) if len(self.block_sizes) > 1 else 0
        return sum(column.nbytes for column in self.columns) + order

    def on(self, device: torch.device) -> Columns:
        """All of them on a device, where they stay; on a CPU nothing is copied."""
        return self._on_device(device)[0]

    @cached_property
    def block_sizes(self) -> np.ndarray:
        return np.bincount(self._block_indices(), minlength=block_count(len(self)))

    def blocks(self, indices: Sequence[int], device: torch.device) -> Iterator[Columns]:
        """The blocks with these indices, the rows of each in time order."""
        columns, order = self._on_device(device)
        ends = np.cumsum(self.block_sizes)
        for index in indices:
            if order is None:
                yield columns
            else:
                yield columns.take(order[ends[index] - self.block_sizes[index] : ends[index]])

    def _block_indices(self) -> np.ndarray:
        return block_indices(0, len(self), block_count(len(self)))

    def _on_device(self, device: torch.device) -> tuple[Columns, Tensor | None]:
        """The columns on a device and, where there are several blocks, the rows in the order of their blocks (int32)."""
        if device not in self._resident:
            order = None
            if len(self.block_sizes) > 1:
                by_block = np.argsort(self._block_indices(), kind="stable").astype(np.int32)
                order = torch.from_numpy(by_block).to(device)
            self._resident[device] = Columns(*(torch.from_numpy(column).to(device) for column in self.columns)), order
        return self._resident[device]


@dataclass(frozen=True)
class LogEncoder:
    """Turns rows of the log into examples."""

    user_ids: pa.Array  # by index, "" in front
    item_ids: pa.Array
    context: ContextEncoder
    clicks: ClickHistory

    def __call__(self, log: pa.Table) -> Examples:
        user, item = indices_of(log["user_id"], self.user_ids), indices_of(log["video_id"], self.item_ids)
        at = log["shown_at"].to_numpy().copy()  # Arrow's memory is read-only, which torch does not accept
        clicked = log["clicked"].to_numpy(zero_copy_only=False).astype(bool)
        return Examples(user, item, clicked, at, self.clicks.ends(user, at), self.context.encode(log, at))


def log_columns(settings: Ranker) -> list[str]:
    """The columns of the interactions that examples need."""
    return ["user_id", "video_id", "shown_at", "clicked", *columns_of(settings.context_fields)]
