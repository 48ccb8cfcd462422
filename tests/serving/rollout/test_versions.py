"""What replicas keep and fall back to, without Ray."""

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from rayrec.serving.bundle import BundleError
from rayrec.serving.recommender import Recommender, UserState
from rayrec.serving.rollout.versions import VersionCache, first_that_loads, try_out


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
    with pytest.raises(BundleError, match="no published bundle"):
        asyncio.run(first_that_loads([], load))


def test_trying_out_a_bundle_shows_nothing_to_anybody(recommender: Recommender) -> None:
    asked: list[str] = []

    async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
        asked.append(user_id)
        return np.zeros(len(candidates), np.float32)

    recommender.rank = rank
    asyncio.run(try_out(recommender))
    assert asked == [*recommender.bundle.top_users(5), ""]
    assert recommender.store.latest() == 0


def test_a_ranker_that_answers_for_other_candidates_is_found_by_trying_out(recommender: Recommender) -> None:
    async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
        return np.zeros(len(candidates) - 1, np.float32)

    recommender.rank = rank
    with pytest.raises(BundleError, match=f"bundle {recommender.bundle.version}: .* does not fit the candidates"):
        asyncio.run(try_out(recommender))


def test_a_bundle_that_answers_nothing_is_found_by_trying_out(recommender: Recommender) -> None:
    for video_id in recommender.bundle.item_ids[1:]:
        recommender.store.withdraw(video_id, True)
    recommender.refresh(recommender.refreshed_at)
    with pytest.raises(BundleError, match=f"bundle {recommender.bundle.version} answers nothing"):
        asyncio.run(try_out(recommender))
