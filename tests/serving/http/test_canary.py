"""A canary over HTTP that fails or is slow: its users get pages all the same, and whom it failed is noted."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Config, Serving
from rayrec.serving.bundle import Bundle
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import OverloadedError, Rank, Recommender
from rayrec.serving.rollout.arms import CANARY, STABLE, Arms
from rayrec.serving.rollout.guardrails import FAILED, SLOW
from rayrec.serving.state.sqlite import SqliteStore
from tests.serving.http.helpers import BUSY, Listen, error
from tests.serving.small_world import rank_by_number

USERS = [f"n{number}" for number in range(20)]
Start = Callable[..., tuple[httpx.Client, Arms]]
PATIENT = Serving(slow_s=30, timeout_s=30)  # on a busy machine, too


async def broken(*request: Any) -> np.ndarray:
    raise RuntimeError("a tensor has the wrong size")


async def no_numbers(user_id: str, user: object, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
    return np.full(len(candidates), np.nan, np.float32)


async def overloaded(*request: Any) -> np.ndarray:
    raise OverloadedError("too many requests wait for the ranker")


async def slow(user_id: str, user: Any, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
    await asyncio.sleep(0.2)
    return await rank_by_number(user_id, user, at, candidates, context)


async def hanging(*request: Any) -> np.ndarray:
    await asyncio.sleep(60)
    raise AssertionError("unreachable")


@pytest.fixture
def metrics() -> LocalMetrics:
    return LocalMetrics()


@pytest.fixture
def start(bundle: Bundle, published: Config, tmp_path: Path, metrics: LocalMetrics, listen: Listen) -> Iterator[Start]:
    """Starts a service whose stable bundle and whose canary, for half of the users, have these rankers."""
    store = SqliteStore(tmp_path / "events.db")

    def serve(stable: Rank, canary: Rank, serving: Serving = PATIENT) -> tuple[httpx.Client, Arms]:
        bundles = (bundle, replace(bundle, version="b"))
        both = [
            Recommender(each, store, rank, published.recall, published.selection, seed=0)
            for each, rank in zip(bundles, (stable, canary), strict=True)
        ]
        arms = Arms(both[0], both[1], 0.5)
        return listen(create_api(lambda: arms, serving, Keys(), metrics, list)), arms

    yield serve
    store.close()


def ask(client: httpx.Client, user: str) -> httpx.Response:
    return client.post("/v1/recommend", json={"user_id": user, "k": 2})


def noted(arms: Arms) -> dict[tuple[str, str], int]:
    """How many users of which arm suffered what."""
    found = {(kind, arm): arms.guardrails.count(kind, arm) for kind in (FAILED, SLOW) for arm in (STABLE, CANARY)}
    return {key: count for key, count in found.items() if count}


@pytest.mark.parametrize("rank", [broken, no_numbers, overloaded])
def test_where_the_canary_fails_the_stable_bundle_answers_and_the_users_are_noted(
    start: Start, metrics: LocalMetrics, bundle: Bundle, rank: Rank
) -> None:
    client, arms = start(rank_by_number, rank)
    answers = [ask(client, user) for user in USERS for _ in range(2)]
    assert {answer.status_code for answer in answers} == {200}
    pages = [answer.json() for answer in answers]
    assert {page["bundle"] for page in pages} == {bundle.version}
    assert all(len(page["videos"]) == 2 for page in pages)
    users = [user for user in USERS if arms.arm_of(user)[0] == CANARY]
    assert [page["arm"] for page in pages].count("canary") == 2 * len(users) > 0  # they stay where they were drawn
    assert noted(arms) == {(FAILED, CANARY): len(users)}
    assert metrics.value("pages_failed_total", arm="canary") == 2 * len(users)
    shown = pa.concat_tables(arms.stable.store.read(1, None))["arm"].to_pylist()
    assert shown.count("canary") == 4 * len(users)


def test_a_request_that_is_wrong_is_not_the_fault_of_a_canary(start: Start) -> None:
    client, arms = start(rank_by_number, rank_by_number)
    body = {"k": 2, "score": "click * nonsense"}
    for user in USERS:
        assert "score: " in error(client.post("/v1/recommend", json=body | {"user_id": user}), 422)
    assert noted(arms) == {}


def test_where_both_fail_the_caller_is_told_and_both_are_noted(start: Start, metrics: LocalMetrics) -> None:
    client, arms = start(overloaded, broken)
    assert {error(ask(client, user), 503) for user in USERS} == {BUSY}
    canaries = sum(arms.arm_of(user)[0] == CANARY for user in USERS)
    assert noted(arms) == {(FAILED, CANARY): canaries, (FAILED, STABLE): len(USERS) - canaries}
    assert metrics.value("pages_failed_total", arm="stable") == len(USERS) - canaries


def test_pages_that_take_long_or_too_long_are_noted(start: Start, metrics: LocalMetrics) -> None:
    client, arms = start(slow, hanging, Serving(slow_s=0.1, timeout_s=0.5))
    stable, canary = (next(user for user in USERS if arms.arm_of(user)[0] == arm) for arm in (STABLE, CANARY))
    assert ask(client, stable).status_code == 200
    assert "took longer than 0.5 s" in error(ask(client, canary), 503)
    assert noted(arms) == {(SLOW, STABLE): 1, (FAILED, CANARY): 1}
    assert [metrics.value("pages_slow_total", arm=arm) for arm in (STABLE, CANARY)] == [1, 0]


def test_without_a_canary_errors_are_counted_but_no_user_is_noted(
    recommender: Recommender, metrics: LocalMetrics, listen: Listen
) -> None:
    recommender.rank, arms = overloaded, Arms(recommender)
    client = listen(create_api(lambda: arms, Serving(), Keys(), metrics, list))
    assert ask(client, "ann").status_code == 503
    assert metrics.value("pages_failed_total", arm="stable") == 1
    assert noted(arms) == {}
