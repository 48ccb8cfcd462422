"""What arrives online: events, and what they say about users and videos.

There is one table, `events`, in the columns of `tables.py`. Histories, seen videos and counts are read from it, so that nothing can
disagree with anything. The training log told its part when the bundle was published; a reader passes the end of that log as `since`
and gets only what came after it. `serving/recommendation.py` puts the two parts together.

`StateStore` is all that serving asks of a store. `SqliteStore` is the embedded one: any number of processes on one machine may have
the file open (WAL).
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from rayrec.config import Config, ConfigError

Kind = Literal["impression", "click", "watch", "like", "skip"]


class Event(NamedTuple):
    """One row of the `events` table. `at` is UTC ms."""

    event_id: str
    user_id: str
    video_id: str
    kind: Kind
    at: int
    request_id: str | None = None
    watch_s: float | None = None


class Activity(NamedTuple):
    """What one user did last: clicked videos with their times, and the distinct videos of any event; each oldest first."""

    clicked: list[str]
    clicked_at: list[int]
    seen: list[str]


class Counts(NamedTuple):
    """How often videos were shown and clicked in the events up to number `upto`."""

    upto: int
    video_ids: list[str]
    exposures: np.ndarray  # int64 [videos]
    clicks: np.ndarray  # int64 [videos]


class StateStore(Protocol):
    """Every method may be called from any thread."""

    def add_events(self, events: Sequence[Event]) -> int:
        """Keep the events that are not there yet (by event_id) and return how many those were.

        When it returns they survive a power cut. All of a batch is kept, or, if an exception is raised, nothing.
        """

    def activity(self, user_id: str, since: int, most_clicks: int, most_seen: int) -> Activity:
        """A user's latest activity after `since` (UTC ms)."""

    def counts(self, after: int, since: int) -> Counts:
        """Exposures and clicks in the events with a number above `after` (0 for all) that happened after `since` (UTC ms)."""

    def close(self) -> None: ...


def state_path(config: Config) -> Path:
    """The SQLite file of a config. Raises `ConfigError` when the workspace is not on this machine and `serving.state` not set."""
    if config.serving.state:
        return Path(config.serving.state).expanduser().resolve()
    if "://" in config.workspace:
        raise ConfigError(f"the events can't be kept in {config.workspace}: set serving.state to a local file, such as events.db")
    return Path(config.workspace).expanduser().resolve() / "state" / "events.db"


class StoreError(RuntimeError):
    """The store can't answer now (its disk is full, another process holds it too long); the same call may succeed later."""


class SqliteStore:
    """Events in one SQLite file. A write waits up to 10 s for the write of another process."""

    def __init__(self, path: Path) -> None:
        """Raises `StoreError` when the file can't be opened."""
        self._writing, self._reading = threading.Lock(), threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # In WAL mode readers never wait for the writer, so reads have a connection of their own.
            self._writer, self._reader = (sqlite3.connect(path, 10, isolation_level=None, check_same_thread=False) for _ in "wr")
            self._create()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the events file {path} can't be opened: {error}") from error

    def _create(self) -> None:
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute("PRAGMA synchronous = FULL")  # a commit is on the disk, not only with the operating system
        # `number` counts events in the order of their arrival, so that a reader can ask for what is new to it.
        self._writer.execute(
            "CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, "
            "user_id TEXT NOT NULL, video_id TEXT NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL, request_id TEXT, watch_s REAL)"
        )
        self._writer.execute("CREATE INDEX IF NOT EXISTS seen ON events (user_id, at, video_id)")
        self._writer.execute("CREATE INDEX IF NOT EXISTS clicked ON events (user_id, at, video_id) WHERE kind = 'click'")

    def add_events(self, events: Sequence[Event]) -> int:
        with self._writing, _transaction(self._writer):
            before = self._writer.total_changes
            self._writer.executemany(
                "INSERT INTO events (event_id, user_id, video_id, kind, at, request_id, watch_s) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (event_id) DO NOTHING",
                events,
            )
            return self._writer.total_changes - before

    def activity(self, user_id: str, since: int, most_clicks: int, most_seen: int) -> Activity:
        clicks = self._rows(
            "SELECT video_id, at FROM events WHERE user_id = ? AND at > ? AND kind = 'click' ORDER BY at DESC, number DESC LIMIT ?",
            (user_id, since, most_clicks),
        )
        seen = self._rows(
            "SELECT video_id FROM events WHERE user_id = ? AND at > ? GROUP BY video_id ORDER BY MAX(at) DESC LIMIT ?",
            (user_id, since, most_seen),
        )
        return Activity(*([row[column] for row in reversed(rows)] for rows, column in ((clicks, 0), (clicks, 1), (seen, 0))))

    def counts(self, after: int, since: int) -> Counts:
        upto = self._rows("SELECT COALESCE(MAX(number), 0) FROM events", ())[0][0]
        rows = self._rows(
            "SELECT video_id, SUM(kind = 'impression'), SUM(kind = 'click') FROM events "
            "WHERE number > ? AND number <= ? AND at > ? GROUP BY video_id",
            (after, upto, since),
        )
        exposures, clicks = (np.array([row[column] for row in rows], dtype=np.int64) for column in (1, 2))
        return Counts(upto, [row[0] for row in rows], exposures, clicks)

    def close(self) -> None:
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def _rows(self, query: str, values: tuple[object, ...]) -> list[tuple]:
        with self._reading:
            try:
                return self._reader.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                raise StoreError(str(error)) from error


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit at the end; roll back and raise `StoreError` or what else was raised."""
    try:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    except sqlite3.OperationalError as error:
        raise StoreError(str(error)) from error
