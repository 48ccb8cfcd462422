"""The state of a training, saved so that a run that was killed can go on from it."""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs
import torch

from rayrec.errors import RayrecError
from rayrec.workspace.files import from_json, make_folder_of, read_whole, to_json, write_whole

FILES = 2
BUFFER = 2**23  # bytes


class CheckpointError(RayrecError):
    """A checkpoint can't be used; the message says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A small file that says which of two others, `<path>.0` and `<path>.1`, has the state. Reading it executes nothing in it.

    A state is written straight into the one of the two that is not in use, however large it is: a bucket can't rename a file, and
    copies none of more than 5 GB. A run that is killed meanwhile leaves the other one as it was.
    """

    fs: pafs.FileSystem
    path: str

    def save(self, state: dict[str, Any]) -> None:
        try:
            number = (self._current() + 1) % FILES
        except (FileNotFoundError, CheckpointError):
            number = 0
        make_folder_of(self.fs, self.path)
        try:
            with self.fs.open_output_stream(self._file(number)) as stream:
                torch.save(state, stream)
        except OSError:
            with contextlib.suppress(OSError):  # on a full disk, half a file must not take the room of others
                self.fs.delete_file(self._file(number))
            raise
        write_whole(self.fs, self.path, to_json({"file": number}))

    def load(self) -> dict[str, Any] | None:
        """What was saved last, on the CPU, or None if nothing was. Raises `CheckpointError` for a file that is no checkpoint."""
        try:
            path = self._file(self._current())
        except FileNotFoundError:
            return None
        try:
            # torch reads every tensor by itself, which would be two requests to a bucket each.
            with self.fs.open_input_file(path) as file, io.BufferedReader(file, BUFFER) as buffered:
                return torch.load(buffered, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's own message advises to execute what is in the file
            raise self._unreadable(path) from error

    def exists(self) -> bool:
        return self.fs.get_file_info(self.path).is_file

    def delete(self) -> None:
        for path in (self.path, *map(self._file, range(FILES))):
            if self.fs.get_file_info(path).is_file:
                self.fs.delete_file(path)

    def _file(self, number: int) -> str:
        return f"{self.path}.{number}"

    def _current(self) -> int:
        """The number of the file in use. Raises `FileNotFoundError` if nothing was saved."""
        try:
            number = from_json(read_whole(self.fs, self.path))["file"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._unreadable(self.path) from error
        if number not in range(FILES):
            raise self._unreadable(self.path)
        return int(number)

    def _unreadable(self, path: str) -> CheckpointError:
        return CheckpointError(f"{path}: not a checkpoint that can be read; delete {self.path} to start anew")
