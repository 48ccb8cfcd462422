"""The log as compact training examples.

An example is a few numbers (user, item, label, time, position among its user's clicks, context). Users, items and histories are
joined by index when a batch is made, on the device. `history.py` explains why a history can't hold the future.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rayrec.data.blocks import block_count, block_indices
from rayrec.data.context import ContextEncoder
from rayrec.data.history import ClickHistory, times_of_requests
from rayrec.data.shuffling import Block, Columns
from rayrec.data.vocabulary import indices_of


@dataclass(frozen=True)
class Examples:
    """Impressions in time order: 25 bytes each, 2 more for each context field, 4 for each goal, 4 if there are several blocks."""

    user: np.ndarray  # int32
    item: np.ndarray  # int32
    clicked: np.ndarray  # bool
    at: np.ndarray  # int64, UTC ms
    end: np.ndarray  # int64, position in the click array behind the last click before `at`
    context: np.ndarray  # int16 or int32 [rows, C]
    goals: np.ndarray | None = None  # float32 [rows, G], the labels of the ranker's goals if it has any; NaN: no label
    _resident: dict[torch.device, tuple[Columns, Tensor | None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        return len(self.user)

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        found = self.user, self.item, self.clicked, self.at, self.end, self.context
        return found if self.goals is None else (*found, self.goals)

    def take(self, rows: slice | np.ndarray) -> "Examples":
        return Examples(*(column[rows] for column in self.columns))

    def on(self, device: torch.device) -> Columns:
        """All of them on a device, where they stay; on a CPU nothing is copied."""
        return self._on_device(device)[0]

    @cached_property
    def block_sizes(self) -> np.ndarray:
        return np.bincount(self._block_indices(), minlength=block_count(len(self)))

    def blocks(self, indices: Sequence[int], device: torch.device) -> Iterator[Block]:
        """The blocks with these indices, all rows of each in time order."""
        columns, order = self._on_device(device)
        ends = np.cumsum(self.block_sizes)
        for index in indices:
            rows = slice(None) if order is None else order[ends[index] - self.block_sizes[index] : ends[index]]
            yield Block(columns.take(rows), None)

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


def encoded(
    log: pa.Table,
    user_ids: pa.Array,
    item_ids: pa.Array,
    clicks: ClickHistory,
    context: ContextEncoder,
    goals: Callable[[pa.Table, np.ndarray], np.ndarray | None] = lambda log, item: None,
) -> Examples:
    """Rows of a log that is in memory as examples. The ids are by index, with "" in front. `goals` gives the labels of goals."""
    user, item = indices_of(log["user_id"], user_ids), indices_of(log["video_id"], item_ids)
    at = log["shown_at"].to_numpy().copy()  # Arrow's memory is read-only, which torch does not accept
    clicked = log["clicked"].to_numpy(zero_copy_only=False).astype(bool)
    return Examples(user, item, clicked, at, clicks.ends(user, times_of_requests(log)), context.encode(log, at), goals(log, item))
