"""What is particular to the store in SQLite."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayrec.config import ConfigError
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.serving.state.store import Event, StoreError
from tests.serving.state.events import ALL, clicked, event, kept


def test_a_store_that_is_held_too_long_says_so(tmp_path: Path) -> None:
    holder, waiter = SqliteStore(tmp_path / "events.db"), SqliteStore(tmp_path / "events.db")
    waiter._writer.execute("PRAGMA busy_timeout = 1")
    holder._writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        waiter.add_events([event(1)])
    assert waiter.activity("ann", ALL, 1, 1).clicked == []  # readers don't wait
    holder._writer.execute("ROLLBACK")
    assert waiter.add_events([event(1)]) == 1
    holder.close()
    waiter.close()


def test_batches_that_wait_are_committed_together(tmp_path: Path) -> None:
    store, commits = SqliteStore(tmp_path / "events.db"), []
    store._writer.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
    with ThreadPoolExecutor(8) as threads:
        with store._writing:
            added = [threads.submit(store.add_events, [event(n)]) for n in range(8)]
            while len(store._waiting) < 8:
                time.sleep(0.001)
        assert [each.result() for each in added] == [1] * 8
    assert len(commits) == 1
    store.close()


OLD_FILE = """
CREATE TABLE events (number INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, user_id TEXT NOT NULL,
    video_id TEXT NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL, request_id TEXT, watch_s REAL);
CREATE INDEX seen ON events (user_id, at, video_id);
CREATE INDEX clicked ON events (user_id, at, video_id) WHERE kind = 'click';
INSERT INTO events (event_id, user_id, video_id, kind, at, request_id, watch_s) VALUES ('e1', 'ann', 'v1', 'click', 1001, 'r', 2.5);
"""


def test_a_file_from_before_there_were_arms_is_brought_up_to_date(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "events.db")
    old.executescript(OLD_FILE)
    old.close()
    for _ in "12":
        store = SqliteStore(tmp_path / "events.db")
        assert store.add_events([event(1)]) == 0
        store.add_events([event(2)._replace(arm="canary")])
        assert clicked(store) == ["v1", "v2"]
        assert kept(store) == [Event("e1", "ann", "v1", "click", 1001, "r", 2.5), event(2)._replace(arm="canary")]
        store.close()


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    newer = sqlite3.connect(tmp_path / "events.db")
    newer.execute("PRAGMA user_version = 7")
    newer.close()
    with pytest.raises(ConfigError, match=r"events\.db has schema version 7, but this rayrec reads version 1"):
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
