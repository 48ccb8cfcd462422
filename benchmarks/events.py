"""How many events a second the state store takes, durably; what a user's history costs in a full store; how much memory it needs.

    python benchmarks/events.py --events 10000000
    python benchmarks/events.py --events 10000000 --redis redis://127.0.0.1:6379/9     (an empty database; left full)

Batches of 50, from one caller and from 16 at once, into an empty store and into one that holds `--events` already; beside a bare
`executemany` of the same rows into a SQLite table with no index but the key, equally durable. Users come by Zipf's law;
of 20 events 14 are impressions, 2 clicks, 2 watches, a like and a skip.
"""

import argparse
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import redis
from figures import median_of, peak_gib, show

from rayrec.config import load
from rayrec.serving.state.opening import open_store
from rayrec.serving.state.store import Event, Since, StateStore

BATCH = 50
KINDS = ["impression"] * 14 + ["click"] * 2 + ["watch"] * 2 + ["like", "skip"]
USERS, VIDEOS = 200_000, 100_000
FIRST, DAYS = 1_700_000_000_000, 90
LATEST = FIRST + DAYS * 86_400_000


def made(name: str, count: int) -> Iterator[list[Event]]:
    """Batches of events, `count` events in all, spread evenly over 90 days and a little out of order."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    weights = np.cumsum(1 / np.arange(1, USERS + 1))
    for start in range(0, count, BATCH):
        users = np.searchsorted(weights, rng.random(BATCH) * weights[-1]).tolist()
        videos, kinds = rng.integers(0, VIDEOS, BATCH).tolist(), rng.integers(0, len(KINDS), BATCH).tolist()
        times = (FIRST + (start + rng.integers(0, 5000, BATCH)) * (LATEST - FIRST) // (count + 5000)).tolist()
        ids = [rng.bytes(16).hex() for _ in range(BATCH)]
        yield [
            Event(id, f"user-{user:08}", f"video-{video:08}", KINDS[kind], at, f"{name}-{start:012}", arm="stable")  # type: ignore[arg-type]
            for id, user, video, kind, at in zip(ids, users, videos, kinds, times, strict=True)
        ]


def per_second(add: Callable[[list[Event]], Any], name: str, count: int, callers: int) -> float:
    """Events a second from so many threads, each of which waits for its batch before it sends the next."""
    batches = list(made(name, count))
    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as threads:
        for _ in threads.map(add, batches):
            pass
    return count / (time.perf_counter() - started)


def bare(path: Path) -> Callable[[list[Event]], None]:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE events (event_id TEXT PRIMARY KEY, user_id, video_id, kind, at, request_id, watch_s, arm)")

    def add(events: list[Event]) -> None:
        db.execute("BEGIN")
        db.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", events)
        db.execute("COMMIT")

    return add


def fill(store: StateStore, count: int) -> float:
    """Seconds to add so many events in large batches."""
    started, batches = time.perf_counter(), made("fill", count)
    while many := [event for batch in islice(batches, 400) for event in batch]:
        store.add_events(many)
    return time.perf_counter() - started


def looks(store: StateStore) -> list[dict[str, Any]]:
    """Milliseconds of `activity` by how much the user did, and of what the refresh loop asks."""
    rows = []
    for user, what in ((0, "the busiest user"), (100, "user 100 by activity"), (50_000, "user 50,000")):
        runs = [milliseconds(lambda: store.activity(f"user-{user:08}", Since(0, FIRST), 128, FIRST, LATEST)) for _ in range(50)]  # noqa: B023
        rows.append({"call": f"activity of {what}", "median ms": median_of(runs), "most ms": max(runs)})
    upto = store.latest()
    for what, call in {
        "counts of the last 1,000 events": lambda: store.counts(upto - 1000, Since()),
        "counts of all events": lambda: store.counts(0, Since()),
        "traffic of a day": lambda: store.traffic(LATEST - 86_400_000, 3_600_000),
    }.items():
        runs = [milliseconds(call) for _ in range(3)]
        rows.append({"call": what, "median ms": median_of(runs), "most ms": max(runs)})
    return rows


def milliseconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000, help="in the full store")
    parser.add_argument("--timed", type=int, default=50_000, help="events of each timed run")
    parser.add_argument("--redis", help="URL of an empty database; the embedded SQLite when not given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state = arguments.redis or f"{folder}/events.db"
        store, rates = open_store(load(None, [f"serving.state={state}"])), []
        if store.latest():
            raise SystemExit(f"{state} is not empty")

        def rate(what: str, add: Callable[[list[Event]], Any], callers: int) -> None:
            rates.append(
                {"intake": what, "callers": callers, "events/s": per_second(add, f"{what}{callers}", arguments.timed, callers)}
            )

        rate("bare executemany", bare(Path(folder) / "bare.db"), 1)
        rate("store, empty", store.add_events, 1)
        rate("store, empty", store.add_events, 16)
        seconds = fill(store, arguments.events)
        rate("store, full", store.add_events, 1)
        rate("store, full", store.add_events, 16)
        show("Intake of events, batches of 50", rates, events=arguments.events, timed=arguments.timed)
        if arguments.redis:
            held = redis.Redis.from_url(arguments.redis).info("memory")["used_memory"] / 2**30
        else:
            held = sum(path.stat().st_size for path in Path(folder).glob("events.db*")) / 2**30
        facts = {
            "events": store.latest(),
            "fill_s": seconds,
            "process_gib": peak_gib(),
            "redis_gib" if arguments.redis else "file_gib": held,
        }
        show("Questions to the full store", looks(store), **facts)
        store.close()


if __name__ == "__main__":
    main()
