"""Locks on files of a workspace: one process at a time makes a version, or changes what is served.

On a local file system the lock is that of the operating system, which ends with its process; the file says who holds it. Elsewhere
the holder writes the file again and again with a growing beat. Whoever wants the lock watches the file: a holder whose beat stands
still for `DEAD_S` is dead, and is replaced. Only changes are looked for, so the clocks of machines need not agree. Two who replace
a dead holder at once both read the file a moment later: the one whose token is in it has the lock. A holder who was taken for dead
finds another's token in the file, and must not publish.
"""

import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pyarrow.fs as pafs

from rayrec.workspace.files import WorkspaceError, read_whole, write_whole, writing

BEAT_S = 10.0  # between two beats
DEAD_S = 30.0  # without a beat
POLL_S = 1.0  # between two looks at another's beat
SETTLE_S = 0.5  # from writing one's own token to reading it back
RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the environment of a job that was submitted to Ray

log = logging.getLogger(__name__)


def _ray_job() -> str:
    """The id under which this process was submitted to Ray, "" if it was not."""
    try:
        return str(json.loads(os.environ[RAY_JOB])["metadata"]["job_submission_id"])
    except (KeyError, TypeError, ValueError):
        return ""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock; the content of its file."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    job: str = field(default_factory=_ray_job)
    since: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    beat: int = 0

    @classmethod
    def read(cls, text: str | bytes) -> "Holder | None":
        """None for a file that names nobody, as the one of a lock that was given back."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f", Ray job {self.job}" if self.job else "") + f", since {self.since}"


Busy = Callable[[Holder | str], str]  # the error for a lock that another holds


class FileLock:
    """The lock of a file on a local file system."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def acquire(self, busy: Busy | None) -> None:
        try:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            file = self._file = Path(self.path).open("a+")  # noqa: SIM115 (closed by `release`)
        except OSError as error:
            raise WorkspaceError(f"{self.path} can't be written: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = Holder.read(file.read()) or "another process"
            if busy:
                file.close()
                raise WorkspaceError(busy(holder)) from error
            log.info("waiting for %s, which holds %s", holder, self.path)
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):  # a full disk
            file.truncate(0)
            file.write(Holder().to_json().decode())
            file.flush()

    def check(self) -> None:
        """A process does not lose this lock."""

    def end(self) -> None:
        """It goes on until it is released."""

    def release(self) -> None:
        if self._file:
            self._file.close()


class BeatingLock:
    """The lock of a file on a file system without locks, such as a bucket."""

    def __init__(self, fs: pafs.FileSystem, path: str) -> None:
        self.fs, self.path = fs, path
        self._mine = Holder()
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def acquire(self, busy: Busy | None) -> None:
        told = False
        while True:
            seen = self._read()
            later = self._watched(seen) if seen else None
            if later is None or later == seen:
                if later:
                    log.warning("%s is dead: it has not renewed %s for %g s; going on in its place", later, self.path, DEAD_S)
                if self._claim():
                    break
            elif busy:
                raise WorkspaceError(busy(later))
            elif not told:
                log.info("waiting for %s, which holds %s", later, self.path)
                told = True
        self._beating.start()

    def check(self) -> None:
        """Raises `WorkspaceError` if another has the lock now, or has ended the work."""
        found = self._read()
        if found is None:
            raise WorkspaceError(
                f"{self.path} is gone: another process has ended this work, or somebody has deleted it; nothing is published"
            )
        if found.token != self._mine.token:
            raise WorkspaceError(
                f"{self.path}: {found} has taken this work over, because this process gave no sign of life for {DEAD_S:g} s; "
                "nothing is published"
            )

    def end(self) -> None:
        """No beat after this one."""
        self._ended.set()
        if self._beating.is_alive():
            self._beating.join()

    def release(self) -> None:
        self.end()
        try:
            if (found := self._read()) and found.token == self._mine.token:
                self._write(b"{}")
        except OSError as error:
            log.warning("%s can't be given back; others wait for it for %g s: %s", self.path, DEAD_S, error)

    def _read(self) -> Holder | None:
        try:
            text = read_whole(self.fs, self.path)
        except FileNotFoundError:
            return None
        return Holder.read(text) if text not in (b"", b"{}") else None

    def _write(self, text: bytes) -> None:
        write_whole(self.fs, self.path, text, temporary=f".{self._mine.token}")

    def _watched(self, seen: Holder) -> Holder | None:
        """What the file says once it has changed, or else after `DEAD_S`."""
        until = time.monotonic() + DEAD_S
        while (found := self._read()) == seen and time.monotonic() < until:
            time.sleep(POLL_S)
        return found

    def _claim(self) -> bool:
        with writing(self.path, "workspace"):
            self._write(self._mine.to_json())
        time.sleep(SETTLE_S)
        found = self._read()
        return found is not None and found.token == self._mine.token

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                found = self._read()
                if found is None or found.token != self._mine.token:
                    log.warning("%s: %s holds this lock now", self.path, found or "nobody")
                    return
                self._mine = replace(self._mine, beat=self._mine.beat + 1)
                self._write(self._mine.to_json())
            except OSError as error:  # it is tried again
                log.warning("%s can't be renewed: %s", self.path, error)


Lock = FileLock | BeatingLock


@contextlib.contextmanager
def held(fs: pafs.FileSystem, path: str, busy: Busy | None = None) -> Iterator[Lock]:
    """Holds the lock of a file while the block runs.

    It waits for another process that holds it, or raises what `busy` says of that one as `WorkspaceError`.
    """
    lock = FileLock(path) if isinstance(fs, pafs.LocalFileSystem) else BeatingLock(fs, path)
    try:
        lock.acquire(busy)
        yield lock
    finally:
        lock.release()
