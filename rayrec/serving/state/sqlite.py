"""The state store in one SQLite file in WAL mode, which any number of processes on one machine may open."""

import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayrec.config import ConfigError
from rayrec.serving.state.store import (
    MAX_EVENTS_READ,
    MAX_TABLE_ROWS,
    MINUTE,
    Activity,
    Counts,
    Event,
    Since,
    StoreError,
    Traffic,
    activity_of,
    digest,
    events_table,
)

SCHEMA = 1  # the version of the layout, which the file keeps in `user_version`; the oldest files have 0
WRITE_TIMEOUT_S = 10  # how long a write waits for the write of another process
PRUNE_BATCH = 5000  # events deleted in one transaction; between transactions, others may write

# `number` counts the events in the order of their arrival, so that a reader can ask for those that are new to it. AUTOINCREMENT:
# the number of a deleted event is not used again. The indexes cover what `activity` and `traffic` ask for, so that these queries
# never read the rows.
TABLES = """
CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, user_id TEXT NOT NULL,
    video_id TEXT NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL, request_id TEXT, watch_s REAL, arm TEXT);
CREATE INDEX IF NOT EXISTS of_user ON events (user_id, at, number, video_id, kind);
CREATE INDEX IF NOT EXISTS by_time ON events (at, kind);
CREATE TABLE IF NOT EXISTS withdrawn (video_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten (digest TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS exports (upto INTEGER PRIMARY KEY, newest_at INTEGER NOT NULL);
"""
UPGRADE_FROM_0 = "ALTER TABLE events ADD COLUMN arm TEXT; DROP INDEX IF EXISTS seen; DROP INDEX IF EXISTS clicked;"
COLUMNS = ", ".join(Event._fields)
INSERT = f"INSERT INTO events ({COLUMNS}) VALUES ({', '.join('?' for _ in Event._fields)}) ON CONFLICT (event_id) DO NOTHING"
LATEST = "COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)"
USERS_LATEST = (
    "SELECT at, number, kind = 'click', video_id FROM events WHERE user_id = ? "
    f"ORDER BY at DESC, number DESC LIMIT {MAX_EVENTS_READ}"
)


class SqliteStore:
    """Keeps events in one SQLite file. A write waits up to `WRITE_TIMEOUT_S` for the write of another process.

    Batches that arrive during a commit are committed together in the next one, so that they wait for the disk only once.
    """

    def __init__(self, path: Path) -> None:
        """Raises `StoreError` if the file can't be opened, `ConfigError` if another version of rayrec made it."""
        self.path = path
        self._waiting: deque[tuple[Sequence[Event], Future[int]]] = deque()
        self._writing = threading.Lock()
        self._readers: deque[sqlite3.Connection] = deque()  # idle connections; in WAL mode readers never wait for the writer
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._writer = self._connect()
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute("PRAGMA synchronous = FULL")  # a commit waits until the data are on the disk
            self._writer.execute("PRAGMA wal_autocheckpoint = 8000")  # pages (32 MiB): one copy of a page for many commits
            self._writer.execute("PRAGMA cache_size = -65536")  # KiB
            self._writer.execute("PRAGMA secure_delete = ON")  # overwrites what is deleted, so that forgotten users leave no trace
            self._create()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the events file {path} can't be opened: {error}") from error

    def add_events(self, events: Sequence[Event]) -> int:
        result: Future[int] = Future()
        self._waiting.append((events, result))
        with self._writing:
            if not result.done():  # no other thread has committed it meanwhile
                self._commit_waiting()
        return result.result()

    def activity(self, user_id: str, since: Since, max_clicks: int, max_seen: int) -> Activity:
        with self._reading() as db:
            latest = db.execute(USERS_LATEST, (user_id,)).fetchall()
            forgotten = db.execute("SELECT 1 FROM forgotten WHERE digest = ?", (digest(user_id),)).fetchone() is not None
        return activity_of(latest, since, max_clicks, max_seen, forgotten)

    def counts(self, after: int, since: Since) -> Counts:
        with self._reading() as db:
            upto = db.execute(f"SELECT {LATEST}").fetchone()[0]
            rows = db.execute(
                "SELECT video_id, SUM(kind = 'impression'), SUM(kind = 'click') FROM events "
                "WHERE number > ? AND number <= ? AND at > ? AND kind IN ('impression', 'click') GROUP BY video_id",
                (max(after, since.number), upto, since.at),
            ).fetchall()
        exposures, clicks = (np.array([row[column] for row in rows], dtype=np.int64) for column in (1, 2))
        return Counts(upto, [row[0] for row in rows], exposures, clicks)

    def latest(self) -> int:
        return self._value(f"SELECT {LATEST}") or 0

    def since(self, log_until: int) -> Since:
        upto = self._value("SELECT MAX(upto) FROM exports WHERE newest_at <= ?", log_until)
        return Since(0, log_until) if upto is None else Since(upto, 0)

    def traffic(self, from_ms: int, bucket_ms: int) -> list[Traffic]:
        if bucket_ms % MINUTE:
            raise ValueError(f"traffic is counted in whole minutes, not in buckets of {bucket_ms} ms")
        with self._reading() as db:
            rows = db.execute(
                "SELECT at / :size * :size, SUM(kind = 'impression'), SUM(kind = 'click') FROM events "
                "WHERE at >= :start AND kind IN ('impression', 'click') GROUP BY 1 ORDER BY 1",
                {"size": bucket_ms, "start": from_ms - from_ms % bucket_ms},
            ).fetchall()
        return [Traffic(*row) for row in rows]

    def withdraw(self, video_id: str, withdrawn: bool) -> None:
        change = "INSERT OR IGNORE INTO withdrawn VALUES (?)" if withdrawn else "DELETE FROM withdrawn WHERE video_id = ?"
        with self._transaction() as db:
            db.execute(change, (video_id,))

    def withdrawn(self) -> list[str]:
        with self._reading() as db:
            return [video for (video,) in db.execute("SELECT video_id FROM withdrawn")]

    def forget(self, user_id: str) -> int:
        with self._transaction() as db:
            db.execute(f"INSERT OR REPLACE INTO forgotten SELECT ?, {LATEST}", (digest(user_id),))
            return db.execute("DELETE FROM events WHERE user_id = ?", (user_id,)).rowcount

    def forgotten(self, number: int) -> set[str]:
        with self._reading() as db:
            return {row[0] for row in db.execute("SELECT digest FROM forgotten WHERE number >= ?", (number,))}

    def prune(self, before_ms: int) -> int:
        oldest = f"SELECT number FROM events WHERE at < ? LIMIT {PRUNE_BATCH}"
        pruned = 0
        while True:
            with self._transaction() as db:
                gone = db.execute(f"DELETE FROM events WHERE number IN ({oldest})", (before_ms,)).rowcount
            pruned += gone
            if gone < PRUNE_BATCH:
                return pruned

    def read(self, first: int, upto: int | None) -> Iterator[pa.Table]:
        upto = self.latest() if upto is None else upto
        while True:
            with self._reading() as db:
                rows = db.execute(
                    f"SELECT number, {COLUMNS} FROM events WHERE number BETWEEN ? AND ? ORDER BY number LIMIT {MAX_TABLE_ROWS}",
                    (first, upto),
                ).fetchall()
            if not rows:
                return
            first = rows[-1][0] + 1
            yield events_table(row[1:] for row in rows)

    def exported(self, upto: int, newest_at: int) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO exports VALUES (?, ?)", (upto, newest_at))

    def close(self) -> None:
        with self._writing:
            self._writer.close()
        while self._readers:
            self._readers.pop().close()

    # --- internals ---

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, WRITE_TIMEOUT_S, isolation_level=None, check_same_thread=False)

    def _create(self) -> None:
        """Creates the tables, or upgrades those of an older version."""
        with self._transaction() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            old = db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'events'").fetchone() is not None
            if version not in (0, SCHEMA):
                raise ConfigError(
                    f"the events file {self.path} has schema version {version}, but this rayrec reads version {SCHEMA}: "
                    "use the rayrec that made the file, or set serving.state to another file"
                )
            script = (UPGRADE_FROM_0 if old and version == 0 else "") + TABLES + f"PRAGMA user_version = {SCHEMA};"
            for statement in filter(str.strip, script.split(";")):  # executescript would commit
                db.execute(statement)

    def _commit_waiting(self) -> None:
        """Commits all waiting batches, each as a whole or not at all."""
        batches = [self._waiting.popleft() for _ in range(len(self._waiting))]
        new: dict[Future[int], int] = {}
        try:
            with _transaction(self._writer) as db:
                for events, result in batches:
                    before = db.total_changes
                    db.execute("SAVEPOINT batch")
                    try:
                        db.executemany(INSERT, events)
                    except sqlite3.OperationalError:
                        raise
                    except Exception as error:  # this batch is wrong, but the others are not
                        db.execute("ROLLBACK TO batch")
                        result.set_exception(error)
                    else:
                        new[result] = db.total_changes - before
                    db.execute("RELEASE batch")
        except BaseException as error:
            for _, result in batches:
                if not result.done():
                    result.set_exception(error)
            return
        for result, count in new.items():
            result.set_result(count)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing, _transaction(self._writer) as db:
            yield db

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that no other thread uses while the block runs."""
        try:
            db = self._readers.pop()
        except IndexError:
            db = self._connect()
        try:
            yield db
        except sqlite3.OperationalError as error:
            raise StoreError(str(error)) from error
        finally:
            self._readers.append(db)

    def _value(self, query: str, *values: object) -> int | None:
        with self._reading() as db, closing(db.execute(query, values)) as rows:
            return rows.fetchone()[0]


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Commits at the end of the block, or rolls back if an exception is raised. SQLite's own errors become `StoreError`."""
    try:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    except sqlite3.OperationalError as error:
        raise StoreError(str(error)) from error
