"""Decodes files in a process that may die, so that a file that kills its decoder, or hangs it, costs nothing but itself.

A damaged or hostile file can crash a codec, make it take all memory or never come to an end. None of this can be caught inside the
process that decodes. Therefore that is a child, which gets one file at a time and lives for as long as nothing happens. If it dies,
the file is tried once more, alone in a fresh process, because it may have been killed for what others did. The second time the
file is given up. A file that takes too long is given up at once.
"""

import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

ATTEMPTS = 2
MEMORY_SHARE = 0.5  # of the machine's, which a decoder may take; with more, the system would end other processes too
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class RowDecoder(Protocol):
    """A function of a module, which decodes the files of the rows; with a `failure`, the rows of files that can't be decoded."""

    def __call__(self, rows: pa.Table, settings: Any, failure: str | None = None) -> pa.Table: ...


class IsolatedDecoder:
    """Calls a `RowDecoder` in a child process, with one row at a time and at most `timeout_s` seconds for each."""

    def __init__(self, decode: RowDecoder, settings: Any, timeout_s: float) -> None:
        self.decode, self.settings, self.timeout_s = decode, settings, timeout_s
        self.child: _Child | None = self._started()

    def __call__(self, rows: pa.Table) -> pa.Table:
        return pa.concat_tables([self._decoded(rows.slice(index, 1)) for index in range(rows.num_rows)])

    def _decoded(self, row: pa.Table) -> pa.Table:
        failure = ""
        for _ in range(ATTEMPTS):
            child, self.child = self.child or self._started(), None
            try:
                decoded = child.ask(row)
            except (EOFError, ConnectionError):
                status = child.process.wait()
                child.close()
                failure = _reason(status, self.timeout_s)
                if status == -signal.SIGALRM:
                    break
                continue
            self.child = child
            return decoded
        return self.decode(row, self.settings, failure)

    def _started(self) -> "_Child":
        return _Child((self.decode, self.settings, self.timeout_s))

    def close(self) -> None:
        if self.child is not None:
            self.child.close()
            self.child = None


class _Child:
    def __init__(self, task: tuple[Any, ...]) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            # -P, and the parent's own path, so that a folder in which the command runs is never taken for a package.
            command = [sys.executable, "-P", "-c", f"from {__name__} import work; work({theirs.fileno()})"]
            path = os.pathsep.join(filter(None, sys.path))
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=os.environ | {"PYTHONPATH": path})
        self.started = False
        with suppress(ConnectionError):  # one that has died at once is noticed when it does not say that it has started
            self.connection.send(task)

    def ask(self, row: pa.Table) -> pa.Table:
        """Raises `EOFError` or `ConnectionError` when the child has died."""
        if not self.started:
            self._wait_until_started()
        self.connection.send(row)
        return self.connection.recv()

    def _wait_until_started(self) -> None:
        try:
            self.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(f"a process that decodes media could not be started (exit status {self.process.wait()})") from error
        self.started = True

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


def work(descriptor: int) -> None:
    """What the child does until its parent closes the connection, or is gone."""
    with Connection(descriptor) as connection:
        try:
            decode, settings, timeout_s = connection.recv()
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the parent, which ends the child
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever the parent has set
            _limit_memory()
            connection.send(None)
            while True:
                row = connection.recv()
                signal.setitimer(signal.ITIMER_REAL, timeout_s)  # kills the process, also when its parent is gone
                decoded = decode(row, settings)
                signal.setitimer(signal.ITIMER_REAL, 0)
                connection.send(decoded)
        except (EOFError, ConnectionError):
            return


def _limit_memory() -> None:
    if sys.platform != "linux":
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else ""
    most = int(min(memory, int(limit)) if limit.isdigit() else memory)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    share = int(MEMORY_SHARE * most)
    resource.setrlimit(resource.RLIMIT_DATA, (share if hard == resource.RLIM_INFINITY else min(share, hard), hard))


def _reason(status: int, timeout_s: float) -> str:
    """Why a child has ended, in a sentence about its file."""
    if status == -signal.SIGALRM:
        return f"decoding took longer than {timeout_s:g} s; allow more with features.decode_timeout_s"
    if status == -signal.SIGKILL:
        return f"its decoder was killed {ATTEMPTS} times, as happens when memory runs out (SIGKILL)"
    how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return f"its decoder crashed {ATTEMPTS} times ({how})"
