"""A store that can't write stops neither pages nor reads."""

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from rayrec.config import Config
from rayrec.serving.bundle import Bundle
from rayrec.serving.recommender import WRITE_WAIT_S, Recommender
from rayrec.serving.state.sqlite import SqliteStore
from tests.serving.http.helpers import BUSY, Listen, api_of, click, error
from tests.serving.small_world import rank_by_number


@pytest.fixture
def held(recommender: Recommender) -> Iterator[sqlite3.Connection]:
    """Another process's connection to the store, in the middle of a write that does not end."""
    assert isinstance(recommender.store, SqliteStore)
    other = sqlite3.connect(recommender.store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()


def test_a_store_that_is_locked_stops_neither_pages_nor_reads(
    client: httpx.Client, recommender: Recommender, held: sqlite3.Connection
) -> None:
    begun = time.monotonic()
    pages = [client.post("/v1/recommend", json={"user_id": "u2", "k": 3}).json() for _ in range(10)]
    assert [page["logged"] for page in pages] == [False] * 10
    assert [len(page["videos"]) for page in pages] == [3] * 10
    assert error(client.post("/v1/events", json={"events": [click(5)]}), 503) == BUSY
    for path in ("/readyz", "/v1/users/u2", "/v1/dashboard", "/v1/topics"):
        assert client.get(path).status_code == 200
    assert time.monotonic() - begun < 5 * WRITE_WAIT_S  # only the first one waits
    held.execute("ROLLBACK")
    while recommender.store.write_delay():
        time.sleep(0.01)
    kinds = Counter(row["kind"] for piece in recommender.store.read(1, None) for row in piece.to_pylist())
    assert kinds == {"impression": 30, "click": 1}  # all were kept in the end
    assert client.post("/v1/recommend", json={"user_id": "u2", "k": 3}).json()["logged"] is True


def test_operators_who_wait_for_a_locked_store_stop_no_reads(
    recommender: Recommender, listen: Listen, held: sqlite3.Connection
) -> None:
    client = listen(api_of(recommender, timeout_s=1))
    with ThreadPoolExecutor(40) as threads:
        waiting = [threads.submit(client.delete, f"/v1/users/{n}") for n in range(40)]
        time.sleep(0.3)
        begun = time.monotonic()
        assert client.get("/v1/users/u2").status_code == 200
        assert time.monotonic() - begun < 0.6
        assert {each.result().status_code for each in waiting} == {503}
    held.execute("ROLLBACK")


def test_impressions_that_are_lost_are_counted(bundle: Bundle, published: Config, tmp_path: Path, listen: Listen) -> None:
    store, lost = SqliteStore(tmp_path / "full.db"), list[int]()
    full = Recommender(bundle, store, rank_by_number, published.recall, published.selection, seed=0, lost=lost.append)
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages}")  # as a full disk would
    client = listen(api_of(full))
    answers = [client.post("/v1/recommend", json={"user_id": f"u{n}", "k": 40}).json() for n in range(50)]
    assert [each["logged"] for each in answers][-1] is False
    assert all(each["videos"] for each in answers)
    assert sum(lost) == sum(len(each["videos"]) for each in answers if not each["logged"])
    assert sum(piece.num_rows for piece in store.read(1, None)) == sum(len(each["videos"]) for each in answers if each["logged"])
    store.close()
