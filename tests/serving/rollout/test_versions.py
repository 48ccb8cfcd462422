"""What replicas keep and fall back to, without Ray."""

import asyncio
import threading
import time

import pytest

from rayrec.serving.bundle import BundleError
from rayrec.serving.rollout.versions import VersionCache, first_that_loads


def test_a_version_is_loaded_once_however_many_ask_at_once() -> None:
    loads: list[str] = []

    def load(version: str) -> str:
        loads.append(version)
        time.sleep(0.02)
        return version.upper()

    cache = VersionCache(load)
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(cache.get("a"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (loads, got) == (["a"], ["A"] * 5)
    assert "a" in cache
    assert "b" not in cache


def test_what_fails_to_load_is_not_kept_and_harms_nothing() -> None:
    broken = {"b"}

    def load(version: str) -> str:
        if version in broken:
            raise BundleError(f"{version} is broken")
        return version.upper()

    cache = VersionCache(load)
    assert cache.get("a") == "A"
    with pytest.raises(BundleError, match="b is broken"):
        cache.get("b")
    assert cache.versions() == ["a"]
    broken.clear()
    assert cache.get("b") == "B"


def test_what_is_neither_wanted_nor_used_goes() -> None:
    cache = VersionCache(str.upper)
    for version in "abc":
        cache.get(version)
    cache.drop(keep={"c"}, unused_s=60)
    assert cache.versions() == ["a", "b", "c"]  # requests that were made with them may be under way
    time.sleep(0.02)
    cache.get("b")
    cache.drop(keep={"c"}, unused_s=0.01)
    assert cache.versions() == ["b", "c"]


def test_a_new_replica_serves_the_first_bundle_that_loads() -> None:
    async def load(version: str) -> str:
        if version != "good":
            raise BundleError(f"{version} is broken")
        return version

    assert asyncio.run(first_that_loads(["newest", "good", "older"], load)) == "good"
    with pytest.raises(BundleError, match="newest is broken"):
        asyncio.run(first_that_loads(["newest", "older"], load))
    with pytest.raises(ValueError, match="no version"):
        asyncio.run(first_that_loads([], load))
