"""What replicas keep and fall back to, without Ray."""

import asyncio
import threading
import time

import pytest

from rayrec.serving.bundle import BundleError
from rayrec.serving.loading import Shelf, first_that_loads


def test_a_version_is_loaded_once_however_many_ask_at_once() -> None:
    loads: list[str] = []

    def load(version: str) -> str:
        loads.append(version)
        time.sleep(0.02)
        return version.upper()

    shelf = Shelf(load)
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(shelf.get("a"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (loads, got) == (["a"], ["A"] * 5)
    assert "a" in shelf
    assert "b" not in shelf


def test_what_fails_to_load_is_not_kept_and_harms_nothing() -> None:
    broken = {"b"}

    def load(version: str) -> str:
        if version in broken:
            raise BundleError(f"{version} is broken")
        return version.upper()

    shelf = Shelf(load)
    assert shelf.get("a") == "A"
    with pytest.raises(BundleError, match="b is broken"):
        shelf.get("b")
    assert shelf.versions() == ["a"]
    broken.clear()
    assert shelf.get("b") == "B"


def test_what_is_neither_wanted_nor_used_goes() -> None:
    shelf = Shelf(str.upper)
    for version in "abc":
        shelf.get(version)
    shelf.drop(keep={"c"}, unused_s=60)
    assert shelf.versions() == ["a", "b", "c"]  # requests that were made with them may be under way
    time.sleep(0.02)
    shelf.get("b")
    shelf.drop(keep={"c"}, unused_s=0.01)
    assert shelf.versions() == ["b", "c"]


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
