"""What users have seen is kept exactly, whatever happens to the events, the processes and the versions of the store."""

import json
import random
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rayrec.config import Config, load, with_values
from rayrec.serving.state.opening import is_redis, open_store, state_path
from rayrec.serving.state.seen import CODE, implied_views, with_codes
from rayrec.serving.state.store import DAY, KINDS, TAKES_BACK, Event, StateStore, Traffic
from tests.serving.state.events import ALL, HOUR, codes, counted, event, kept
from tests.serving.stores import RedisServer

NEW_COLUMNS = ("position", "page_number", "session_id", "dwell_s", "draw")


@pytest.fixture
def reported(state: Config) -> Config:
    return with_values(state, {"serving.views": "reported"})


@pytest.fixture
def store(reported: Config) -> Iterator[StateStore]:
    store = open_store(reported)
    yield store
    store.close()


def seen(store: StateStore, user: str = "ann", since: int = 0) -> bytes:
    return store.activity(user, ALL, 0, since, 0).seen


def in_fours(found: bytes) -> list[bytes]:
    return [found[start : start + CODE] for start in range(0, len(found), CODE)]


@pytest.mark.parametrize("views", ["assumed", "reported"])
def test_the_store_agrees_with_sets_of_days(state: Config, views: str) -> None:
    """Two replicas write in turns, late and repeated events among theirs; one of them is restarted now and then."""
    config, rng = with_values(state, {"serving.views": views}), random.Random(views)
    replicas, sent, days = [open_store(config), open_store(config)], list[Event](), defaultdict[str, dict[str, set[int]]](dict)
    for number in range(60):
        fresh = [
            Event(f"{number}-{n}", f"u{rng.randrange(3)}", f"v{rng.randrange(300)}", rng.choice(KINDS), rng.randrange(20 * DAY))
            for n in range(rng.randrange(1, 40))
        ]
        batch = [*fresh, *rng.sample(sent, min(len(sent), 3))]
        replicas[number % 2].add_events(batch)
        sent += fresh
        for each in fresh:
            if each.kind not in TAKES_BACK and (each.kind != "impression" or views == "assumed"):
                days[each.user_id].setdefault(each.video_id, set()).add(each.at // DAY)
        if number % 9 == 0:
            replicas[1].close()
            replicas[1] = open_store(config)
        user, first = f"u{rng.randrange(3)}", rng.randrange(20)
        found = in_fours(seen(replicas[number % 2], user, first * DAY + 5))
        expected = sorted(codes(video) for video, own in days[user].items() for day in own if day >= first)
        assert sorted(found) == expected
    assert sum(len(own) for own in days.values()) > 500
    for each in replicas:
        each.close()


def test_the_earliest_day_comes_first_and_on_a_day_what_was_seen_last_comes_last(store: StateStore) -> None:
    store.add_events([event(n, "view", at=at) for n, at in enumerate([3 * DAY, DAY + 5, 3 * DAY - 1, DAY + 1, 12 * DAY])])
    store.add_events([event(10, "view", video="v1", at=3 * DAY)])
    assert seen(store) == codes("v1", "v3", "v2", "v0", "v1", "v4")
    store.add_events([event(11, "view", video="v1", at=DAY + 9), event(12, "click", video="v0", at=3 * DAY)])
    assert seen(store) == codes("v3", "v1", "v2", "v1", "v0", "v4")


def test_codes_are_compared_whole() -> None:
    """The bytes of a code may also lie across two others."""
    assert with_codes(b"abcdefgh", [b"cdef", b"abcd", b"cdef"]) == b"efghabcdcdef"


def test_a_code_across_two_others_is_kept_by_the_store(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"v1": b"abcd", "v2": b"efgh", "v3": b"cdef"}
    for place in ("seen", "redis_events"):
        monkeypatch.setattr(f"rayrec.serving.state.{place}.code", made.get)
    store.add_events([event(1, "view"), event(2, "view"), event(3, "view"), event(4, "view", video="v1")])
    assert seen(store) == b"efghcdefabcd"


def test_deliveries_are_neither_seen_nor_exposures(store: StateStore) -> None:
    store.add_events([event(1, "impression"), event(2, "impression"), event(2, "view", user="bob"), event(3, "click")])
    store.add_events([event(11, "view", video="v1"), event(12, "view", video="v1")])
    assert seen(store) == codes("v3", "v1")
    assert counted(store) == {"v2": (1, 0), "v3": (0, 1), "v1": (1, 0)}
    assert store.traffic(0, HOUR) == [Traffic(0, 2, 1)]  # a video that came into view twice was viewed once
    assert store.activity("ann", ALL, 0, 0, 1002).delivered == ["v2"]
    assert store.activity("ann", ALL, 0, 0, 0).delivered == ["v1", "v2"]


def test_what_takes_a_wish_back_says_nothing_of_a_video_in_view(store: StateStore) -> None:
    taken_back = [event(n, kind) for n, kind in enumerate(TAKES_BACK)]
    assert implied_views(taken_back) == []
    store.add_events(taken_back)
    assert (seen(store), counted(store), store.traffic(0, HOUR)) == (b"", {}, [])


def test_where_views_are_assumed_deliveries_are_both(state: Config) -> None:
    store = open_store(state)
    store.add_events([event(1, "impression"), event(2, "impression"), event(11, "view", video="v1")])
    assert (seen(store), counted(store)) == (codes("v2", "v1"), {"v1": (1, 0), "v2": (1, 0)})
    assert store.activity("ann", ALL, 0, 0, 0).delivered == []
    store.close()


def test_what_was_seen_outlives_the_events_but_not_its_days_nor_its_user(store: StateStore) -> None:
    store.add_events([event(n, "view", user=user, at=n * DAY) for n in range(10) for user in ("ann", "bob")])
    store.prune(9 * DAY, 4 * DAY + 5)
    assert len(kept(store)) == 2
    assert seen(store) == codes(*(f"v{n}" for n in range(4, 10)))
    store.forget("ann")
    assert (seen(store), len(seen(store, "bob"))) == (b"", 6 * CODE)
    store.add_events([event(20, "view", at=9 * DAY)])
    assert seen(store) == codes("v20")


def test_whatever_a_user_does_with_a_video_implies_a_view_once() -> None:
    done = [
        event(1, "like")._replace(request_id="r1", arm="canary"),
        event(2, "click", video="v1")._replace(request_id="r1"),
        event(3, "watch", video="v3")._replace(request_id="r1"),
        event(4, "view", video="v3")._replace(request_id="r1"),
        event(5, "skip", video="v1")._replace(request_id="r2"),
        event(6, "skip", video="v1", at=DAY + 7),
        event(7, "impression"),
    ]
    views = implied_views(done)
    assert [(view.video_id, view.request_id, view.at, view.arm, view.kind) for view in views] == [
        ("v1", "r1", 1001, "canary", "view"),
        ("v1", "r2", 1005, None, "view"),
        ("v1", None, DAY + 7, None, "view"),
    ]
    later = implied_views([event(30, "click", video="v1")._replace(request_id="r1"), event(31, "like", video="v1", at=DAY + 9000)])
    assert [view.event_id for view in later] == [views[0].event_id, views[2].event_id]


def test_an_sqlite_file_of_version_5_says_what_was_seen(tmp_path: Path) -> None:
    config = load(None, [f"serving.state={tmp_path / 'events.db'}"])
    store, events = open_store(config), [event(n, "impression", user=f"u{n % 3}", at=n * HOUR) for n in range(200)]
    store.add_events(events)
    expected = [store.activity(f"u{user}", ALL, 0, 0, 0) for user in range(3)]
    store.close()
    with closing(sqlite3.connect(state_path(config))) as db:
        db.execute("DROP TABLE seen")
        for column in NEW_COLUMNS:
            db.execute(f"ALTER TABLE events DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 5")
        db.commit()
    for _ in "12":
        store = open_store(config)
        assert [store.activity(f"u{user}", ALL, 0, 0, 0) for user in range(3)] == expected
        assert kept(store) == events
        store.close()
    store = open_store(config)
    store.add_events([event(500, "impression")._replace(position=2, page_number=1, session_id="s", dwell_s=0.5)])
    assert kept(store)[-1][-5:] == (2, 1, "s", 0.5, None)
    store.close()


def test_redis_keys_of_version_3_say_what_was_seen(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.serving.state.redis.MIGRATE_BATCH", 7)
    redis.flush()
    config = load(None, [f"serving.state={redis.url}"])
    store, events = open_store(config), [event(n, user=f"u{n % 3}", video=f"v{n % 20}", at=n * HOUR) for n in range(200)]
    store.add_events(events)
    expected, counts = [store.activity(f"u{user}", ALL, 50, 0, 0) for user in range(3)], counted(store)
    store.close()
    for bucket in redis.client.keys("{rayrec}:events:*"):
        for number, text in redis.client.hgetall(bucket).items():
            values = json.loads(text)
            redis.client.hset(bucket, number, json.dumps([*values[:9], *([1] if values[-1] is True else [])]))
    redis.client.delete(*redis.client.keys("{rayrec}:seen*"))
    redis.client.set("{rayrec}:schema", "3")
    for _ in "12":
        store = open_store(config)
        assert [store.activity(f"u{user}", ALL, 50, 0, 0) for user in range(3)] == expected
        assert (kept(store), counted(store)) == (events, counts)
        store.close()


def test_the_fields_of_an_event_come_back(store: StateStore, reported: Config) -> None:
    """Also where the last one looks like the mark of a repeat."""
    shown = event(1, "impression")._replace(position=1, page_number=1, session_id="s1")
    viewed = [event(n, "view", video="v1")._replace(dwell_s=1) for n in (2, 3)]
    store.add_events([shown, *viewed])
    assert kept(store) == [shown, *viewed]
    assert counted(store) == {"v1": (1, 0)}
    assert is_redis(reported) or counted(store, after=2) == {}
