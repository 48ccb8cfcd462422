"""What is particular to the store in Redis."""

import itertools
import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rayrec.config import ConfigError, load
from rayrec.serving.state.opening import open_store
from rayrec.serving.state.redis import RedisStore
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.serving.state.store import DAY, Activity, Event, StoreError
from tests.serving.state.events import ALL, HOUR, codes, counted, event, kept
from tests.serving.stores import RedisServer, redis_server


def test_redis_restarted_in_the_middle_of_intake(tmp_path: Path) -> None:
    """Callers send again what was answered with a `StoreError`, as clients do after a 503."""
    with redis_server(tmp_path) as server:
        store = open_store(load(None, [f"serving.state={server.url}"]))
        batches = [[event(n) for n in range(start, start + 10)] for start in range(0, 3000, 10)]
        refused, done = [0], threading.Event()

        def intake() -> None:
            for batch in batches:
                while True:
                    try:
                        store.add_events(batch)
                        break
                    except StoreError:
                        refused[0] += 1
            done.set()

        thread = threading.Thread(target=intake)
        thread.start()
        for _ in range(3):
            time.sleep(0.03)
            server.kill()
            time.sleep(0.3)
            server.start()
        thread.join()
        assert done.is_set()
        assert Counter(each.event_id for each in kept(store)) == Counter(f"e{n}" for n in range(3000))
        store.close()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (("--appendonly", "no"), r"set `appendonly yes` \(it is no\), `appendfsync always` \(it is everysec\) in redis.conf"),
        (
            ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "allkeys-lru"),
            r"set `maxmemory-policy noeviction`",
        ),
        (("--rename-command", "CONFIG", ""), "let rayrec's Redis user run CONFIG GET"),
    ],
)
def test_a_redis_that_may_lose_events_is_refused(tmp_path: Path, settings: tuple[str, ...], sentence: str) -> None:
    with redis_server(tmp_path, *settings) as server, pytest.raises(ConfigError, match=sentence):
        open_store(load(None, [f"serving.state={server.url}"]))


def test_keys_of_another_version_are_refused(redis: RedisServer) -> None:
    redis.flush()
    redis.client.set("{rayrec}:schema", 99)
    with pytest.raises(ConfigError, match="have schema version 99, but this rayrec reads version 5"):
        open_store(load(None, [f"serving.state={redis.url}"]))


def test_a_redis_that_is_not_there(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        gone = load(None, [f"serving.state={server.url}"])
    with pytest.raises(StoreError, match="refused"):
        open_store(gone)


def test_pruned_redis_is_empty(redis: RedisServer) -> None:
    """Retention bounds its memory: nothing stays of an event."""
    redis.flush()
    store = open_store(load(None, [f"serving.state={redis.url}"]))
    store.add_events([event(n, kind, user=f"u{n}") for n, kind in enumerate(("impression", "click", "watch", "like", "skip"))])
    store.prune(HOUR, DAY)
    store.close()
    assert sorted(redis.client.keys()) == [b"{rayrec}:number", b"{rayrec}:schema"]


def test_late_events_come_while_their_days_are_pruned(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another replica writes before the n-th command of the one that prunes, for every n."""
    redis.flush()
    config, number = load(None, [f"serving.state={redis.url}"]), itertools.count()
    writer, pruner, cut = open_store(config), open_store(config), 3
    assert isinstance(pruner, RedisStore)
    client, today = pruner._redis, list[Event]()
    execute, left, interrupted = client.execute_command, 0, 0

    def write() -> None:
        written = [event(next(number), user=user, at=day * DAY) for day in range(cut + 1) for user in ("ann", "bob")]
        writer.add_events(written)
        today.extend(written[-2:])

    def interrupt(*command: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            write()
        return execute(*command, **options)

    monkeypatch.setattr(client, "execute_command", interrupt)
    while left <= 0:  # until no command of the pruner was the n-th
        write()
        interrupted += 1
        left = interrupted
        pruner.prune(cut * DAY, cut * DAY)
        assert _days(redis, "seen") == {int(day) for day in redis.client.smembers("{rayrec}:seen_days")}
        assert {hour // 24 for hour in _days(redis, "hour")} == {
            int(hour) // 24 for hour in redis.client.smembers("{rayrec}:hours")
        }
        assert len(kept(writer)) == redis.client.scard("{rayrec}:known")
        writer.prune(cut * DAY, cut * DAY)
        assert kept(writer) == today
        assert _days(redis, "seen") == {cut}
        assert _days(redis, "hour") == _days(redis, "traffic") == {cut * 24}
        for user in ("ann", "bob"):
            assert writer.activity(user, ALL, 0, 0, 0).seen == codes(*(each.video_id for each in today if each.user_id == user))
    assert interrupted > 20
    for store in (writer, pruner):
        store.close()


def _days(redis: RedisServer, name: str) -> set[int]:
    """The numbers at the end of the keys of this name."""
    return {int(key.rpartition(b":")[2]) for key in redis.client.keys(f"{{rayrec}}:{name}:*")}


def test_a_forgotten_user_leaves_no_id(redis: RedisServer) -> None:
    redis.flush()
    store = open_store(load(None, [f"serving.state={redis.url}"]))
    store.add_events([event(1, kind, user="somebody") for kind in ("impression",)] + [event(2, user="somebody"), event(3)])
    store.forget("somebody")
    store.close()
    keys = redis.client.keys()
    values = [redis.client.dump(key) for key in keys]
    assert not any(b"somebody" in each for each in [*keys, *values])


def write_version_1(client: Any, events: list[Event]) -> None:
    """The keys as version 1 of the layout had them: all users shared the event ids, and one set held all kinds of a user."""
    prefix = "{rayrec}:"
    for number, each in enumerate(events, 1):
        minute, kind = each.at // 60_000, each.kind[0]
        client.set(f"{prefix}number", number)
        client.sadd(f"{prefix}ids", each.event_id)
        client.hset(f"{prefix}events:{number // 128}", str(number), json.dumps(each[:8]))
        client.zadd(f"{prefix}user:{each.user_id}", {f"{number:012d}{kind}{each.video_id}": each.at})
        client.sadd(f"{prefix}hours", minute // 60)
        client.rpush(f"{prefix}hour:{minute // 60}", number)
        if kind in "ic":
            client.hincrby(f"{prefix}traffic:{minute // 60}", f"{kind}{minute}", 1)
    client.set(f"{prefix}schema", "1")


def test_keys_of_version_1_are_brought_up_to_date(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.serving.state.redis.MIGRATE_BATCH", 7)
    redis.flush()
    old = [event(n, "impression" if n % 3 else "click", user=f"c:u{n % 5}", video=f"v{n % 7}") for n in range(300)]
    write_version_1(redis.client, old)
    redis.client.sadd("{rayrec}:known", "x")  # as if an earlier migration had been killed; the next one goes on
    config = load(None, [f"serving.state={redis.url}"])
    store = open_store(config)
    expected = SqliteStore(Path(redis.folder) / "expected.db")
    expected.add_events(old)
    for _ in "12":
        assert kept(store) == old
        for user in range(5):
            assert store.activity(f"c:u{user}", ALL, 50, 0, 0) == expected.activity(f"c:u{user}", ALL, 50, 0, 0)
        assert counted(store) == counted(expected)
        assert store.add_events(old[:3]) == old[:3]
        assert not {b"{rayrec}:ids", b"{rayrec}:user:c:u1"} & set(redis.client.keys())
        store.close()
        store = open_store(config)
    store.prune(HOUR, DAY)
    store.close()
    expected.close()
    redis.client.srem("{rayrec}:known", "x")
    assert sorted(redis.client.keys()) == [b"{rayrec}:number", b"{rayrec}:schema"]


@pytest.mark.parametrize(("version", "fields"), [("2", 8), ("3", 9), ("4", 9)])
def test_keys_of_older_versions_have_events_without_the_last_fields(redis: RedisServer, version: str, fields: int) -> None:
    redis.flush()
    config = load(None, [f"serving.state={redis.url}"])
    store = open_store(config)
    events = [event(1, "impression"), event(2, "impression", video="v1"), event(3)]  # the second one is a repeat of the first
    store.add_events(events)
    store.close()
    (bucket,) = redis.client.keys("{rayrec}:events:*")
    for number, text in redis.client.hgetall(bucket).items():
        values = json.loads(text)
        redis.client.hset(bucket, number, json.dumps([*values[:fields], *values[len(Event._fields) :]]))
    redis.client.set("{rayrec}:schema", version)
    store = open_store(config)
    assert kept(store) == events
    new = event(4)._replace(context='{"a":1}', draw='{"propensity":1.0}')
    assert store.add_events([new, new._replace(event_id="repeat")]) == []
    assert kept(store)[3:] == [new, new._replace(event_id="repeat")]
    assert counted(store) == {"v1": (1, 0), "v3": (0, 1), "v4": (0, 1)}
    store.close()


def test_a_redis_at_its_memory_limit_still_forgets_and_withdraws(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        store = open_store(load(None, [f"serving.state={server.url}"]))
        store.add_events([event(n, user=f"u{n % 2}") for n in range(500)])
        server.client.config_set("maxmemory", 1)
        with pytest.raises(StoreError, match="maxmemory"):
            store.add_events([event(1000)])
        store.withdraw("v7", True)
        store.withdraw("v8", True)
        store.withdraw("v8", False)
        assert store.forget("u1") == 250
        assert store.withdrawn() == ["v7"]
        assert store.activity("u1", ALL, 5, 0, 0) == Activity([], [], b"", [], forgotten=True)
        assert len(store.activity("u0", ALL, 500, 0, 0).clicked) == 250
        assert store.prune(HOUR, DAY) == 250
        server.client.config_set("maxmemory", 0)
        assert store.add_events([event(1000)]) == []
        store.close()


def test_a_server_that_may_lose_events_since_it_was_opened_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.serving.state.redis.SETTINGS_CHECK_S", 0)
    with redis_server(tmp_path) as server:
        store = open_store(load(None, [f"serving.state={server.url}"]))
        store.add_events([event(1)])
        server.client.config_set("appendfsync", "everysec")
        with pytest.raises(StoreError, match=r"may lose events .* set `appendfsync always` \(it is everysec\)"):
            store.add_events([event(2)])
        assert store.activity("ann", ALL, 5, 0, 0).clicked == ["v1"]
        server.client.config_set("appendfsync", "always")
        assert store.add_events([event(2)]) == []
        store.close()
