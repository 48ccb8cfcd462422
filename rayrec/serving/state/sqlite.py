"""The state store in one SQLite file in WAL mode, which any number of processes on one machine may open."""

import itertools
import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayrec.config import ConfigError
from rayrec.serving.state.intake import Batch, Intake, WritesByIntake
from rayrec.serving.state.reading import AtHand, Readers, connect
from rayrec.serving.state.seen import codes_by_day, with_codes
from rayrec.serving.state.store import (
    DAY,
    FEEDBACK,
    KEPT,
    MAX_EVENTS_READ,
    MAX_TABLE_ROWS,
    MINUTE,
    Activity,
    Addition,
    Counts,
    Event,
    Exposure,
    Since,
    StoreError,
    Traffic,
    Upload,
    activity_of,
    digest,
    events_table,
)

SCHEMA = 7  # the version of the layout, which the file keeps in `user_version`; the oldest files have 0
WRITE_TIMEOUT_S = 10  # how long a write waits for the write of another process
READ_TIMEOUT_S = 1  # likewise a read, which waits only for a process that keeps the file to itself
PRUNE_BATCH = 250  # events deleted in one transaction; between transactions, others write

# `number` counts the events in the order of their arrival, so that a reader can ask for those that are new to it. AUTOINCREMENT:
# the number of a deleted event is not used again. The indexes cover what `activity`, `counts` and `traffic` ask for, so that these
# queries never read the rows.
TABLES = """
CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL, user_id TEXT NOT NULL,
    video_id TEXT NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL, request_id TEXT, watch_s REAL, arm TEXT,
    context TEXT, position INTEGER, page_number INTEGER, session_id TEXT, dwell_s REAL, draw TEXT, UNIQUE (user_id, event_id));
CREATE INDEX IF NOT EXISTS of_user ON events (user_id, kind, at, number, video_id);
CREATE INDEX IF NOT EXISTS by_time ON events (at, kind);
CREATE TABLE IF NOT EXISTS withdrawn (video_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten (digest TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS exports (upto INTEGER PRIMARY KEY, newest_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS additions (number INTEGER PRIMARY KEY AUTOINCREMENT, video_id TEXT NOT NULL, model TEXT NOT NULL,
    row TEXT NOT NULL, UNIQUE (video_id, model));
CREATE TABLE IF NOT EXISTS users (user_id TEXT PRIMARY KEY, fields TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uploads (video_id TEXT PRIMARY KEY, at INTEGER NOT NULL, error TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (user_id TEXT NOT NULL, day INTEGER NOT NULL, codes BLOB NOT NULL, PRIMARY KEY (user_id, day));
CREATE INDEX IF NOT EXISTS seen_by_day ON seen (day);
"""
COLUMNS = ", ".join(Event._fields)
# Before version 2, all users shared the event ids. SQLite can't change the constraints of a table, so its rows are copied.
UPGRADE_FROM_0 = "ALTER TABLE events ADD COLUMN arm TEXT; DROP INDEX IF EXISTS seen; DROP INDEX IF EXISTS clicked;"
UPGRADE_FROM_4 = "ALTER TABLE events ADD COLUMN context TEXT;"
UPGRADE_FROM_5 = "".join(
    f"ALTER TABLE events ADD COLUMN {column};"
    for column in ("position INTEGER", "page_number INTEGER", "session_id TEXT", "dwell_s REAL")
)
UPGRADE_FROM_6 = "ALTER TABLE events ADD COLUMN draw TEXT;"
UPGRADE_FROM_1 = f"""
DROP INDEX IF EXISTS of_user;
DROP INDEX IF EXISTS by_time;
ALTER TABLE events RENAME TO old_events;
{TABLES}
INSERT INTO events (number, {COLUMNS}) SELECT number, {COLUMNS} FROM old_events ORDER BY number;
DELETE FROM sqlite_sequence WHERE name = 'events';
INSERT INTO sqlite_sequence SELECT 'events', seq FROM sqlite_sequence WHERE name = 'old_events';
DROP TABLE old_events;
"""
INSERT = (
    f"INSERT INTO events ({COLUMNS}) VALUES ({', '.join('?' for _ in Event._fields)}) ON CONFLICT (user_id, event_id) DO NOTHING"
)
LATEST = "COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)"
CLICKS = (
    "SELECT at, number, video_id FROM events WHERE user_id = ? AND kind = 'click' "
    f"ORDER BY at DESC, number DESC LIMIT {MAX_EVENTS_READ}"
)
TOLD = " UNION ALL ".join(
    "SELECT * FROM (SELECT at, number, kind, video_id FROM events WHERE user_id = :user "
    f"AND kind = '{kind}' ORDER BY at DESC, number DESC LIMIT {MAX_EVENTS_READ})"
    for kind in FEEDBACK
)
DELIVERED = (
    "SELECT at, number, video_id FROM events WHERE user_id = ? AND kind = 'impression' AND at >= ? "
    f"ORDER BY at DESC, number DESC LIMIT {MAX_EVENTS_READ}"
)
MARK_SEEN = "INSERT INTO seen VALUES (?, ?, ?) ON CONFLICT (user_id, day) DO UPDATE SET codes = excluded.codes"
# What the same user did with the same video on the same day has been counted.
COUNTS = f"""
SELECT video_id, SUM(kind = :exposure), SUM(kind = 'click') FROM events AS new
WHERE number > :after AND number <= :upto AND at > :since AND kind IN (:exposure, 'click') AND NOT EXISTS (
    SELECT 1 FROM events WHERE user_id = new.user_id AND kind = new.kind AND at >= new.at / {DAY} * {DAY}
    AND at < (new.at / {DAY} + 1) * {DAY} AND video_id = new.video_id AND number < new.number)
GROUP BY video_id
"""

log = logging.getLogger(__name__)


# A video that comes into view several times on a day, or whose view is also implied by other events, was viewed once.
TRAFFIC = f"""
SELECT at / :size * :size, SUM(kind = :exposure), SUM(kind = 'click') FROM events AS new
WHERE at >= :start AND kind IN (:exposure, 'click') AND NOT (kind = 'view' AND EXISTS (
    SELECT 1 FROM events WHERE user_id = new.user_id AND kind = 'view' AND at >= new.at / {DAY} * {DAY}
    AND at < (new.at / {DAY} + 1) * {DAY} AND video_id = new.video_id AND number < new.number))
GROUP BY 1 ORDER BY 1
"""


class SqliteStore(WritesByIntake):
    """Keeps events in one SQLite file. A write waits up to `WRITE_TIMEOUT_S` for the write of another process.

    Batches that arrive during a commit are committed together in the next one, so that they wait for the disk only once.
    """

    def __init__(self, path: Path, exposure: Exposure = "impression") -> None:
        """Raises `StoreError` if the file can't be opened, `ConfigError` if another version of rayrec made it."""
        self.path, self.exposure = path, exposure
        self._writing = threading.Lock()
        self._readers, self._hasty_readers = Readers(path, READ_TIMEOUT_S), Readers(path, 0)
        self._at_hand = AtHand()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._writer = connect(path, WRITE_TIMEOUT_S)
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute("PRAGMA synchronous = FULL")  # a commit waits until the data are on the disk
            self._writer.execute("PRAGMA wal_autocheckpoint = 8000")  # pages (32 MiB): one copy of a page for many commits
            self._writer.execute("PRAGMA cache_size = -65536")  # KiB
            self._writer.execute("PRAGMA secure_delete = ON")  # overwrites what is deleted, so that forgotten users leave no trace
            self._create()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the events file {path} can't be opened: {error}") from error
        self._intake = Intake(self._commit)

    def activity(self, user_id: str, since: Since, max_clicks: int, seen_since: int, delivered_since: int) -> Activity:
        return self._activity(self._readers, user_id, since, max_clicks, seen_since, delivered_since)

    def activity_at_once(
        self, user_id: str, since: Since, max_clicks: int, seen_since: int, delivered_since: int
    ) -> Activity | None:
        asked = user_id, since, max_clicks, seen_since, delivered_since
        return self._at_hand.read(lambda: self._activity(self._hasty_readers, *asked))

    def _activity(
        self,
        readers: Readers,
        user_id: str,
        since: Since,
        max_clicks: int,
        seen_since: int,
        delivered_since: int,
    ) -> Activity:
        days = "SELECT codes FROM seen WHERE user_id = ? AND day >= ? ORDER BY day"
        with readers.one() as db:
            clicks = db.execute(CLICKS, (user_id,)).fetchall()
            seen = b"".join(codes for (codes,) in db.execute(days, (user_id, seen_since // DAY)))
            delivered = [] if self.exposure == "impression" else db.execute(DELIVERED, (user_id, delivered_since)).fetchall()
            told = db.execute(TOLD, {"user": user_id}).fetchall()
            forgotten = db.execute("SELECT 1 FROM forgotten WHERE digest = ?", (digest(user_id),)).fetchone() is not None
            fields = db.execute("SELECT fields FROM users WHERE user_id = ?", (user_id,)).fetchone() or ("",)
        return activity_of(clicks, since, max_clicks, seen, delivered, told, forgotten, fields[0])

    def counts(self, after: int, since: Since) -> Counts:
        with self._readers.one() as db:
            upto = db.execute(f"SELECT {LATEST}").fetchone()[0]
            values = {"exposure": self.exposure, "after": max(after, since.number), "upto": upto, "since": since.at}
            rows = db.execute(COUNTS, values).fetchall()
        exposures, clicks = (np.array([row[column] for row in rows], dtype=np.int64) for column in (1, 2))
        return Counts(upto, [row[0] for row in rows], exposures, clicks)

    def latest(self) -> int:
        return self._value(f"SELECT {LATEST}") or 0

    def since(self, log_until: int, log_upto: int | None = None) -> Since:
        known_by, value = ("newest_at", log_until) if log_upto is None else ("upto", log_upto)
        upto = self._value(f"SELECT MAX(upto) FROM exports WHERE {known_by} <= ?", value)
        return Since(0, log_until) if upto is None else Since(upto, 0)

    def traffic(self, from_ms: int, bucket_ms: int) -> list[Traffic]:
        if bucket_ms % MINUTE:
            raise ValueError(f"traffic is counted in whole minutes, not in buckets of {bucket_ms} ms")
        with self._readers.one() as db:
            rows = db.execute(
                TRAFFIC,
                {"exposure": self.exposure, "size": bucket_ms, "start": from_ms - from_ms % bucket_ms},
            ).fetchall()
        return [Traffic(*row) for row in rows]

    def withdraw(self, video_id: str, withdrawn: bool) -> None:
        change = "INSERT OR IGNORE INTO withdrawn VALUES (?)" if withdrawn else "DELETE FROM withdrawn WHERE video_id = ?"
        with self._transaction() as db:
            db.execute(change, (video_id,))

    def withdrawn(self) -> list[str]:
        with self._readers.one() as db:
            return [video for (video,) in db.execute("SELECT video_id FROM withdrawn")]

    def forget(self, user_id: str) -> int:
        with self._transaction() as db:
            db.execute(f"INSERT OR REPLACE INTO forgotten SELECT ?, {LATEST}", (digest(user_id),))
            db.execute("DELETE FROM users WHERE user_id = ?", (user_id,))
            db.execute("DELETE FROM seen WHERE user_id = ?", (user_id,))
            return db.execute("DELETE FROM events WHERE user_id = ?", (user_id,)).rowcount

    def put_users(self, users: Mapping[str, str]) -> None:
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO users VALUES (?, ?)", list(users.items()))

    def users(self) -> dict[str, str]:
        with self._readers.one() as db:
            return dict(db.execute("SELECT user_id, fields FROM users"))

    def forgotten(self, number: int) -> set[str]:
        with self._readers.one() as db:
            return {row[0] for row in db.execute("SELECT digest FROM forgotten WHERE number >= ?", (number,))}

    def prune(self, before_ms: int, seen_before_ms: int) -> int:
        with self._transaction() as db:
            db.execute("DELETE FROM uploads WHERE at < ?", (before_ms,))
        self._delete_old("seen", "day < ?", seen_before_ms // DAY)
        return self._delete_old("events", f"at < ? AND kind NOT IN {KEPT}", before_ms)

    def add_video(self, video_id: str, model: str, row: str) -> Addition:
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO additions (video_id, model, row) VALUES (?, ?, ?)", (video_id, model, row))
            query = "SELECT number, video_id, model, row FROM additions WHERE video_id = ? AND model = ?"
            return Addition(*db.execute(query, (video_id, model)).fetchone())

    def additions(self, after: int) -> list[Addition]:
        with self._readers.one() as db:
            query = "SELECT number, video_id, model, row FROM additions WHERE number > ? ORDER BY number"
            return [Addition(*row) for row in db.execute(query, (after,))]

    def additions_of(self, video_id: str) -> list[Addition]:
        with self._readers.one() as db:
            query = "SELECT number, video_id, model, row FROM additions WHERE video_id = ? ORDER BY number"
            return [Addition(*row) for row in db.execute(query, (video_id,))]

    def remove_additions(self, numbers: Sequence[int]) -> None:
        with self._transaction() as db:
            db.executemany("DELETE FROM additions WHERE number = ?", [(number,) for number in numbers])

    def note_upload(self, video_id: str, upload: Upload | None) -> None:
        with self._transaction() as db:
            if upload is None:
                db.execute("DELETE FROM uploads WHERE video_id = ?", (video_id,))
            else:
                db.execute("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?)", (video_id, *upload))

    def upload(self, video_id: str) -> Upload | None:
        with self._readers.one() as db:
            found = db.execute("SELECT at, error FROM uploads WHERE video_id = ?", (video_id,)).fetchone()
        return Upload(*found) if found else None

    def read(self, first: int, upto: int | None) -> Iterator[pa.Table]:
        upto = self.latest() if upto is None else upto
        while True:
            with self._readers.one() as db:
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
        self._intake.close()
        with self._writing:
            self._writer.close()
        for readers in (self._readers, self._hasty_readers):
            readers.close()

    # --- internals ---

    def _create(self) -> None:
        """Creates the tables, or upgrades those of an older version. A file that is up to date is not written to."""
        if self._writer.execute("PRAGMA user_version").fetchone()[0] == SCHEMA:
            return
        with self._transaction() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            old = db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'events'").fetchone() is not None
            if version not in range(SCHEMA + 1):
                raise ConfigError(
                    f"the events file {self.path} has schema version {version}, but this rayrec reads version {SCHEMA}: "
                    "use the rayrec that made the file, or set serving.state to another file"
                )
            script = ""
            if old:
                log.warning("the events file %s is brought up to date, which takes minutes for a large one", self.path)
                script = (UPGRADE_FROM_4 if version < 5 else "") + (UPGRADE_FROM_5 if version < 6 else "") + UPGRADE_FROM_6
            if old and version < 2:
                script = (UPGRADE_FROM_0 if version == 0 else "") + script + UPGRADE_FROM_1
            for statement in filter(str.strip, f"{script}{TABLES}PRAGMA user_version = {SCHEMA};".split(";")):
                db.execute(statement)  # executescript would commit
            if old and version < 6:
                self._fill_seen(db)

    def _delete_old(self, table: str, old: str, limit: int) -> int:
        """Deletes the rows of a table that are older than a limit, a few at a time; returns how many there were."""
        oldest, pruned = f"SELECT rowid FROM {table} WHERE {old} LIMIT {PRUNE_BATCH}", 0
        while True:
            begun = time.monotonic()
            with self._transaction() as db:
                gone = db.execute(f"DELETE FROM {table} WHERE rowid IN ({oldest})", (limit,)).rowcount
            pruned += gone
            if gone < PRUNE_BATCH:
                return pruned
            time.sleep(time.monotonic() - begun)  # as long for others as for itself

    def _fill_seen(self, db: sqlite3.Connection) -> None:
        """Notes what users have seen in the events of a file that did not say so yet."""
        rows = db.execute(f"SELECT {COLUMNS} FROM events ORDER BY user_id, number")
        for _, events in itertools.groupby(map(Event._make, rows), key=lambda event: event.user_id):
            _mark_seen(db, events, self.exposure)

    def _commit(self, batches: list[Batch]) -> None:
        """Commits batches, each as a whole or not at all."""
        known: list[tuple[Batch, list[Event]]] = []
        new: list[Event] = []
        with self._transaction() as db:
            for batch in batches:
                db.execute("SAVEPOINT batch")
                try:
                    were_new = [db.execute(INSERT, event).rowcount > 0 for event in batch.events]
                    known.append((batch, [event for event, is_new in zip(batch.events, were_new, strict=True) if not is_new]))
                    new += itertools.compress(batch.events, were_new)
                except sqlite3.OperationalError:
                    raise
                except Exception as error:  # this batch is wrong, but the others are not
                    db.execute("ROLLBACK TO batch")
                    batch.result.set_exception(error)
                db.execute("RELEASE batch")
            _mark_seen(db, new, self.exposure)
        for batch, events in known:
            batch.result.set_result(events)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing, _transaction(self._writer) as db:
            yield db

    def _value(self, query: str, *values: object) -> int | None:
        with self._readers.one() as db, closing(db.execute(query, values)) as rows:
            return rows.fetchone()[0]


def _mark_seen(db: sqlite3.Connection, events: Iterable[Event], exposure: Exposure) -> None:
    """Notes that users have seen what these events say, on the days of the events."""
    for (user_id, day), codes in codes_by_day(events, exposure).items():
        found = db.execute("SELECT codes FROM seen WHERE user_id = ? AND day = ?", (user_id, day)).fetchone()
        known = found[0] if found else b""
        if (more := with_codes(known, codes)) != known:
            db.execute(MARK_SEEN, (user_id, day, more))


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
