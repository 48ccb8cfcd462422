"""What is particular to the store in SQLite."""

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import IO, cast

import pytest

from rayrec.config import ConfigError
from rayrec.serving.state import intake, reading
from rayrec.serving.state.seen import code
from rayrec.serving.state.sqlite import READ_TIMEOUT_S, WRITE_TIMEOUT_S, SqliteStore
from rayrec.serving.state.store import Activity, Event, Since, StoreError
from tests.serving.state.events import ALL, clicked, counted, event, kept

ROOT = Path(__file__).parents[3]


def test_a_store_that_is_held_too_long_says_so(tmp_path: Path) -> None:
    holder, waiter = SqliteStore(tmp_path / "events.db"), SqliteStore(tmp_path / "events.db")
    waiter._writer.execute("PRAGMA busy_timeout = 1")
    holder._writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        waiter.add_events([event(1)])
    assert waiter.activity("ann", ALL, 1, 0, 0).clicked == []  # readers don't wait
    holder._writer.execute("ROLLBACK")
    assert waiter.add_events([event(1)]) == []
    holder.close()
    waiter.close()


def test_batches_that_wait_are_committed_together(tmp_path: Path) -> None:
    store, commits = SqliteStore(tmp_path / "events.db"), []
    store._writer.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
    with store._writing:
        added = [store.submit([event(0)])]
        while not store._intake._writing:  # the first one waits for the lock
            time.sleep(0.001)
        added += [store.submit([event(n)]) for n in range(1, 8)]
        assert 0 < store.write_delay() < 60
    assert [each.result() for each in added] == [[]] * 8
    assert len(commits) == 2
    store.close()


def test_while_batches_come_together_a_commit_waits_for_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "GATHER_S", 0.5)
    store, commits = SqliteStore(tmp_path / "events.db"), []
    store._writer.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)

    def seconds(*numbers: int) -> float:
        """Of the commits of batches that come one after the other."""
        begun, added = time.monotonic(), []
        for n in numbers:
            added.append(store.submit([event(n)]))
            time.sleep(0.03)
        assert [each.result() for each in added] == [[]] * len(numbers)
        return time.monotonic() - begun

    with store._writing:
        together = [store.submit([event(n)]) for n in (0, 1, 2)]
        time.sleep(0.03)
    assert [each.result() for each in together] == [[]] * 3
    commits.clear()
    assert seconds(3, 4) > 0.5
    assert len(commits) == 1
    assert seconds(5) > 0.5
    assert seconds(6) < 0.5  # for nothing came with the one before
    store.close()


def at_once(store: SqliteStore, user: str = "ann") -> Activity | None:
    return store.activity_at_once(user, ALL, 10, 0, 0)


# Each line that it reads is something to write; it says when that is committed.
WRITES = """
import sys
from pathlib import Path
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.serving.state.store import Event
store = SqliteStore(Path(sys.argv[1]))
for line in sys.stdin:
    eval(line)
    print("done", flush=True)
"""


def test_what_another_process_wrote_is_read_at_once(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "events.db")
    store.add_events([event(1)])
    assert at_once(store) == store.activity("ann", ALL, 10, 0, 0)
    command = [sys.executable, "-c", WRITES, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        to_it, from_it = cast(IO[str], other.stdin), cast(IO[str], other.stdout)

        def written(line: str) -> Activity:
            to_it.write(f"{line}\n")
            to_it.flush()
            assert from_it.readline() == "done\n"
            found = at_once(store)
            assert found is not None
            assert found == store.activity("ann", ALL, 10, 0, 0)
            return found

        for kind in ("click", "not_interested", "block_author", "impression"):
            told = written(f"store.add_events([Event('{kind}', 'ann', 'of {kind}', '{kind}', 5000)])")
            assert code(f"of {kind}") in told.seen
        assert told.clicked == ["v1", "of click"]
        assert [kind for kind, _, _ in told.feedback] == ["not_interested", "block_author"]
        assert written("store.add_events([Event('u', 'ann', 'of block_author', 'undo', 6000)])").feedback[-1][0] == "undo"
        assert written("store.put_users({'ann': '{\"age\":4}'})").fields == '{"age":4}'
        assert written("store.forget('ann')") == Activity([], [], b"", [], forgotten=True)
        to_it.close()
    store.close()


def test_a_read_at_once_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(tmp_path / "events.db")
    store.add_events([event(1)])
    store._writer.execute("PRAGMA journal_mode = DELETE")  # in which a writer keeps readers out
    store._writer.execute("BEGIN EXCLUSIVE")
    begun = time.monotonic()
    assert at_once(store) is None
    assert time.monotonic() - begun < READ_TIMEOUT_S / 2
    with pytest.raises(StoreError, match="locked"):
        store.activity("ann", ALL, 10, 0, 0)
    assert time.monotonic() - begun > READ_TIMEOUT_S / 2
    store._writer.execute("ROLLBACK")
    assert at_once(store) is not None
    monkeypatch.setattr(reading, "SLOW_S", -1.0)
    assert at_once(store) is not None
    assert at_once(store) is None  # for the last one was slow
    monkeypatch.setattr(reading, "AWAY_S", 0.0)
    store._at_hand = reading.AtHand()
    assert None not in (at_once(store), at_once(store))
    store.close()


NEW_IN_6 = ("position", "page_number", "session_id", "dwell_s")
OLD_FILE = """
CREATE TABLE events (number INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, user_id TEXT NOT NULL,
    video_id TEXT NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL, request_id TEXT, watch_s REAL);
CREATE INDEX seen ON events (user_id, at, video_id);
CREATE INDEX clicked ON events (user_id, at, video_id) WHERE kind = 'click';
INSERT INTO events (event_id, user_id, video_id, kind, at, request_id, watch_s) VALUES ('e1', 'ann', 'v1', 'click', 1001, 'r', 2.5);
"""


# As version 1 of the layout had it: all users shared the event ids.
FILE_OF_VERSION_1 = (
    OLD_FILE
    + """
ALTER TABLE events ADD COLUMN arm TEXT;
DROP INDEX seen;
DROP INDEX clicked;
CREATE INDEX of_user ON events (user_id, at, number, video_id, kind);
CREATE INDEX by_time ON events (at, kind);
CREATE TABLE withdrawn (video_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE forgotten (digest TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE exports (upto INTEGER PRIMARY KEY, newest_at INTEGER NOT NULL);
INSERT INTO events (event_id, user_id, video_id, kind, at) VALUES ('gone', 'ann', 'v9', 'click', 1009);
DELETE FROM events WHERE event_id = 'gone';
INSERT INTO withdrawn VALUES ('v3');
PRAGMA user_version = 1;
"""
)


@pytest.mark.parametrize(("script", "latest"), [(OLD_FILE, 1), (FILE_OF_VERSION_1, 2)])
def test_a_file_of_an_older_version_is_brought_up_to_date(tmp_path: Path, script: str, latest: int) -> None:
    old = sqlite3.connect(tmp_path / "events.db")
    old.executescript(script)
    old.close()
    for time_opened in (1, 2):
        store = SqliteStore(tmp_path / "events.db")
        if time_opened == 1:
            assert store.latest() == latest  # the number of a deleted event is not given again
        assert store.add_events([event(1)]) == [event(1)]
        store.add_events([event(2)._replace(arm="canary"), event(1, user="bob")])
        assert clicked(store) == ["v1", "v2"]
        assert clicked(store, "bob") == ["v1"]
        assert kept(store)[:2] == [Event("e1", "ann", "v1", "click", 1001, "r", 2.5), event(2)._replace(arm="canary")]
        assert store.withdrawn() == ["v3"] * (script is FILE_OF_VERSION_1)
        assert store.add_video("new", "model", "{}").number == 1
        store.close()


def test_a_file_that_another_process_holds_can_be_opened_and_read(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "events.db")
    first.add_events([event(1)])
    first._writer.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    second = SqliteStore(tmp_path / "events.db")  # a replica that starts now
    assert clicked(second) == ["v1"]
    assert (second.withdrawn(), second.since(0), counted(second)) == ([], Since(), {"v1": (0, 1)})
    assert time.monotonic() - begun < WRITE_TIMEOUT_S / 4
    first._writer.execute("ROLLBACK")
    first.close()
    second.close()


def test_a_full_disk_costs_only_what_can_not_be_written(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "events.db")
    store.add_events([event(1)])
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages}")  # as a full disk would
    with pytest.raises(StoreError, match="disk is full"):
        store.add_events([event(n) for n in range(2, 1000)])
    assert clicked(store) == ["v1"]
    second = SqliteStore(tmp_path / "events.db")
    assert clicked(second) == ["v1"]
    store._writer.execute("PRAGMA max_page_count = 1000000")
    assert store.add_events([event(n) for n in range(2, 1000)]) == []
    assert len(kept(store)) == 999
    second.close()
    store.close()


def test_events_do_not_wait_for_a_long_prune(tmp_path: Path) -> None:
    """Between two bites, the events that wait are written."""
    store = SqliteStore(tmp_path / "events.db")
    for start in range(0, 20_000, 1000):
        store.add_events([event(n, "impression", at=n) for n in range(start, start + 1000)])
    pruning = threading.Thread(target=store.prune, args=[20_000, 0])
    pruning.start()
    written, left = 0, [20_000]
    while pruning.is_alive():
        store.add_events([event(100_000 + written, at=10**9)])
        written += 1
        left.append(len(kept(store)) - written)
    pruning.join()
    assert len(kept(store)) == written
    assert len(set(left)) > 10  # rather than all at once
    store.close()


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    newer = sqlite3.connect(tmp_path / "events.db")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(ConfigError, match=r"events\.db has schema version 99, but this rayrec reads version 7"):
        SqliteStore(tmp_path / "events.db")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_text("no database" * 100)
    with pytest.raises(StoreError, match=r"events\.db can't be opened"):
        SqliteStore(tmp_path / "events.db")


def test_nothing_of_a_forgotten_user_is_left_in_the_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "events.db")
    store.add_events(
        [event(n, user="somebody-in-particular") for n in range(500)] + [event(n, user="bob") for n in range(500, 900)]
    )
    store.forget("somebody-in-particular")
    store.close()
    assert b"somebody-in-particular" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_file_of_before_users_could_be_put_gets_their_table_and_the_context(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    SqliteStore(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE users")
        db.execute("DROP TABLE seen")
        for column in ("context", *NEW_IN_6, "draw"):
            db.execute(f"ALTER TABLE events DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 3")
        db.commit()
    store = SqliteStore(path)
    assert store.activity("ann", Since(), 1, 0, 0).fields == ""
    store.put_users({"ann": "{}"})
    assert store.activity("ann", Since(), 1, 0, 0).fields == "{}"
    store.add_events([event(1)._replace(context='{"device":"tv"}')])
    assert kept(store)[0].context == '{"device":"tv"}'
    store.close()


@pytest.mark.parametrize("version", [5, 6])
def test_a_file_of_before_exploration_says_nothing_of_draws(tmp_path: Path, version: int) -> None:
    path = tmp_path / "events.db"
    store = SqliteStore(path)
    store.add_events([event(1, "impression")])
    store.close()
    with closing(sqlite3.connect(path)) as db:
        for column in ("draw", *(NEW_IN_6 if version < 6 else ())):
            db.execute(f"ALTER TABLE events DROP COLUMN {column}")
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()
    store = SqliteStore(path)
    drawn = event(2, "impression")._replace(draw='{"propensity":1.0}')
    store.add_events([drawn])
    assert kept(store) == [event(1, "impression"), drawn]
    store.close()
