"""The state of a training, saved so that a run that was killed can go on from it."""

import io
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs
import torch

from rayrec.errors import RayrecError
from rayrec.workspace.files import read_whole, write_whole


class CheckpointError(RayrecError):
    """A checkpoint can't be used; the message says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """One file, replaced in one step. Reading it executes nothing that is in it."""

    fs: pafs.FileSystem
    path: str

    def save(self, state: dict[str, Any]) -> None:
        data = io.BytesIO()
        torch.save(state, data)
        write_whole(self.fs, self.path, data.getvalue())

    def load(self) -> dict[str, Any] | None:
        """What was saved last, on the CPU, or None if nothing was. Raises `CheckpointError` for a file that is no checkpoint."""
        try:
            data = read_whole(self.fs, self.path)
        except FileNotFoundError:
            return None
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{self.path}: not a checkpoint that can be read ({error}); delete it to start anew") from error

    def delete(self) -> None:
        if self.fs.get_file_info(self.path).is_file:
            self.fs.delete_file(self.path)
