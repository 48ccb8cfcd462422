"""What is particular to the store in Redis."""

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from rayrec.config import ConfigError, load
from rayrec.serving.state.opening import open_store
from rayrec.serving.state.store import StoreError
from tests.serving.state.events import HOUR, event, kept
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
    redis.client.set("{rayrec}:schema", 7)
    with pytest.raises(ConfigError, match="have schema version 7, but this rayrec reads version 1"):
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
    store.prune(HOUR)
    store.close()
    assert sorted(redis.client.keys()) == [b"{rayrec}:number", b"{rayrec}:schema"]
