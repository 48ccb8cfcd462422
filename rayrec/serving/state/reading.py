"""How a SQLite file is read: by idle connections, in a thread that may wait, or at once where SQLite has the pages in memory."""

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rayrec.serving.state.store import StoreError

SLOW_S = 0.01  # a read that took longer waited for the disk
AWAY_S = 1.0  # for so long after such a read, whoever may not wait has to read in a thread

Found = TypeVar("Found")


def connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    """A connection that any thread may use, which waits so long for other processes."""
    return sqlite3.connect(path, timeout_s, isolation_level=None, check_same_thread=False)


class Readers:
    """Connections that read. In WAL mode they never wait for a writer, and see what any process has committed."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path, self._timeout_s = path, timeout_s
        self._idle: deque[sqlite3.Connection] = deque()

    @contextmanager
    def one(self) -> Iterator[sqlite3.Connection]:
        """A connection that no other thread uses while the block runs. SQLite's own errors become `StoreError`."""
        db = None
        try:
            try:
                db = self._idle.pop()
            except IndexError:
                db = connect(self._path, self._timeout_s)
            yield db
        except sqlite3.OperationalError as error:
            raise StoreError(str(error)) from error
        finally:
            if db is not None:
                self._idle.append(db)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


class AtHand:
    """Reads in the thread of an event loop, as long as that is fast.

    A read of pages that are in memory takes some 50 us, half of what it takes to hand it to a thread.
    """

    def __init__(self) -> None:
        self._from = 0.0  # on a monotonic clock: until then, reads wait for the disk

    def read(self, read: Callable[[], Found]) -> Found | None:
        """What `read` returns; None if it failed, or if a read within the last `AWAY_S` was slow: a thread is to read it then."""
        begun = time.monotonic()
        if begun < self._from:
            return None
        try:
            return read()
        except StoreError:
            return None
        finally:
            if time.monotonic() - begun > SLOW_S:
                self._from = time.monotonic() + AWAY_S
