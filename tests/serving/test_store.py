"""The SQLite store: nothing twice, nothing lost, several processes at once."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayrec.config import ConfigError, load
from rayrec.serving.store import Event, SqliteStore, StoreError, state_path

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "state" / "events.db")
    yield store
    store.close()


def event(number: int, kind: str = "click", user: str = "ann", video: str | None = None) -> Event:
    return Event(f"e{number}", user, video or f"v{number}", kind, at=1000 + number)


def test_an_event_counts_once_however_often_it_comes(store: SqliteStore) -> None:
    assert store.add_events([event(1), event(2)]) == 2
    assert store.add_events([event(2), event(3), event(3)]) == 1
    assert store.activity("ann", 0, 10, 10).clicked == ["v1", "v2", "v3"]
    assert store.counts(0, 0).clicks.sum() == 3


def test_history_is_in_the_order_of_the_clicks_not_of_their_arrival(store: SqliteStore) -> None:
    store.add_events([event(5), event(2), event(9, "impression"), event(7, user="bob")])
    store.add_events([event(3, "watch"), event(1)])
    activity = store.activity("ann", 0, 10, 10)
    assert (activity.clicked, activity.clicked_at) == (["v1", "v2", "v5"], [1001, 1002, 1005])
    assert activity.seen == ["v1", "v2", "v3", "v5", "v9"]


def test_history_is_bounded_and_keeps_the_latest(store: SqliteStore) -> None:
    store.add_events([event(n, video=f"v{n % 4}") for n in range(20)])
    activity = store.activity("ann", since=1004, most_clicks=3, most_seen=2)
    assert activity.clicked == ["v1", "v2", "v3"]
    assert activity.seen == ["v2", "v3"]
    assert store.activity("ann", since=1019, most_clicks=3, most_seen=2) == ([], [], [])


def test_counts_are_those_since_the_last_look(store: SqliteStore) -> None:
    store.add_events(
        [
            event(1, "impression", video="v"),
            event(2, "impression", video="v"),
            event(3, "click", video="v"),
            event(4, "like", video="w"),
        ]
    )
    first = store.counts(0, 0)
    assert dict(zip(first.video_ids, zip(first.exposures.tolist(), first.clicks.tolist(), strict=True), strict=True)) == {
        "v": (2, 1),
        "w": (0, 0),
    }
    assert store.counts(first.upto, 0).video_ids == []
    store.add_events([event(5, "click", video="v"), event(6, "click", video="v", user="bob")])
    assert store.counts(first.upto, 0).clicks.tolist() == [2]
    assert store.counts(0, since=1005).clicks.tolist() == [1]


def test_events_are_there_after_reopening(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "events.db")
    first.add_events([event(1)])
    first.close()
    second = SqliteStore(tmp_path / "events.db")
    assert second.add_events([event(1)]) == 0
    assert second.activity("ann", 0, 10, 10).clicked == ["v1"]
    second.close()


def test_a_batch_is_kept_whole_or_not_at_all(store: SqliteStore) -> None:
    with pytest.raises(Exception, match="NOT NULL"):
        store.add_events([event(1), event(2)._replace(video_id=None)])
    assert store.counts(0, 0).upto == 0
    assert store.add_events([event(1)]) == 1


def test_a_store_that_is_held_too_long_says_so(tmp_path: Path) -> None:
    holder, waiter = SqliteStore(tmp_path / "events.db"), SqliteStore(tmp_path / "events.db")
    waiter._writer.execute("PRAGMA busy_timeout = 1")
    holder._writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        waiter.add_events([event(1)])
    holder._writer.execute("ROLLBACK")
    assert waiter.add_events([event(1)]) == 1
    holder.close()
    waiter.close()


WRITER = """
import sys
from pathlib import Path
from rayrec.serving.store import Event, SqliteStore
store, name = SqliteStore(Path(sys.argv[1])), sys.argv[2]
for batch in range(int(sys.argv[3])):
    store.add_events([Event(f"{name}-{batch}-{n}", name, f"v{n}", "click", batch) for n in range(5)])
    print(batch, flush=True)
"""


def writer(path: Path, name: str, batches: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, path, name, str(batches)], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    writers = [writer(path, name, 100) for name in ("a", "b")]
    for each in writers:
        each.communicate()
        assert each.returncode == 0
    store = SqliteStore(path)
    assert store.counts(0, -1).clicks.sum() == 1000
    store.close()


def test_no_acknowledged_event_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    victim = writer(path, "a", 10**9)
    assert victim.stdout is not None
    acknowledged = [int(victim.stdout.readline()) for _ in range(50)]
    os.kill(victim.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in victim.communicate()[0].split()]
    store = SqliteStore(path)
    times = store.activity("a", -1, 10**6, 10**6).clicked_at
    store.close()
    assert sorted(times)[: 5 * len(acknowledged)] == [batch for batch in acknowledged for _ in range(5)]
    assert len(times) % 5 == 0  # no batch in part


def test_where_the_events_are() -> None:
    assert state_path(load(None, ["workspace=/w"])) == Path("/w/state/events.db")
    assert state_path(load(None, ["workspace=s3://bucket/w", "serving.state=/w/events.db"])) == Path("/w/events.db")
    with pytest.raises(ConfigError, match=r"s3://bucket/w: set serving\.state to a local file"):
        state_path(load(None, ["workspace=s3://bucket/w"]))
