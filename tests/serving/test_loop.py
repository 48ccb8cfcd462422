"""The whole loop without Ray: serve, click, export, ingest, train, publish, and serve what was learned from the clicks."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rayrec.config import Config, with_values
from rayrec.serving.bundle import Bundle, load_scorer, locate
from rayrec.serving.pages import Page
from rayrec.serving.recommender import Recommender, UserState, now_ms
from rayrec.serving.state.export import export_events
from rayrec.serving.state.opening import open_store
from rayrec.serving.state.store import Event, Since, StateStore
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.encoded import whole_log
from tests.serving.small_world import TRAIN, build_workspace, topic_of

PAGES = 9


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A published workspace whose raw data are files: a catalog, and a folder of logs with the old one."""
    config = build_workspace(tmp_path / "workspace", **{"recall.min_ctr": 0, "split.validation": 0.05, "split.test": 0.05})
    workspace = Workspace(config.workspace)
    (tmp_path / "log").mkdir()
    pq.write_table(workspace.read("catalog"), tmp_path / "catalog.parquet")
    pq.write_table(workspace.read("interactions"), tmp_path / "log" / "old.parquet")
    files = {"kind": "files", "catalog": str(tmp_path / "catalog.parquet"), "interactions": str(tmp_path / "log")}
    return with_values(config, {"dataset": files})


@pytest.fixture
def store(config: Config) -> Iterator[StateStore]:
    store = open_store(config)
    yield store
    store.close()


def ranked_by(bundle: Bundle, workspace: Workspace) -> Callable[..., Awaitable[np.ndarray]]:
    """The bundle's own ranker."""
    scorer = load_scorer(workspace.fs, locate(workspace, bundle.version)[1])

    async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
        return scorer.score([user_id], [user.clicked], [user.clicked_at], np.array([at]), candidates[None])[0]

    return rank


def serving(config: Config, store: StateStore) -> Recommender:
    workspace = Workspace(config.workspace)
    version, folder = locate(workspace, None)
    bundle = Bundle.load(workspace.fs, folder, version)
    return Recommender(bundle, store, ranked_by(bundle, workspace), config.recall, config.selection, seed=0)


def ask(recommender: Recommender, user: str) -> Page:
    return asyncio.run(recommender.recommend(user, 4, []))


def browse(recommender: Recommender, user: str, topic: int) -> list[int]:
    """A few pages, every video on a topic clicked; the items clicked."""
    clicked = []
    for _ in range(PAGES):
        page = ask(recommender, user)
        liked = [item for item in page.items.tolist() if topic_of(item - 1) == topic]
        ids = [recommender.bundle.item_ids[item] for item in liked]
        recommender.store.add_events(
            [Event(f"{page.request_id}-{n}-c", user, v, "click", now_ms(), page.request_id) for n, v in enumerate(ids)]
        )
        clicked += liked
    return clicked


def test_a_page_that_was_fetched_early_knows_no_later_click(
    config: Config, store: StateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feed fetches each page while the one before is watched: the examples must have the histories that serving had."""
    clock, served = now_ms(), {}
    monkeypatch.setattr("rayrec.serving.recommender.now_ms", lambda: clock)
    recommender = serving(config, store)

    def fetch() -> Page:
        page = ask(recommender, "newcomer")
        served[page.at] = [recommender.bundle.item_ids[item] for item in seen_by_the_ranker[-1]]
        return page

    seen_by_the_ranker: list[np.ndarray] = []
    rank = recommender.rank

    async def noted(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
        seen_by_the_ranker.append(user.clicked)
        return await rank(user_id, user, at, candidates, context)

    recommender.rank = noted
    page = fetch()
    for number in range(6):
        clock += 1000
        ahead = fetch()  # while `page` is on the screen
        clock += 1000
        video = recommender.bundle.item_ids[int(page.items[0])]
        store.add_events([Event(f"c{number}", "newcomer", video, "click", clock, page.request_id)])
        page = ahead
    export_events(config, str(tmp_path / "log"))
    workspace = Workspace(config.workspace)
    run_stage(workspace, load_stage("ingest"), config)
    data = whole_log(workspace, config)
    user, found = data.users.index["newcomer"], {}
    for part in (data.train, data.validation, data.test):
        for row in np.flatnonzero(part.user == user):
            known = slice(data.clicks.offsets[user], part.end[row])
            found[int(part.at[row])] = [data.items.ids[item] for item in data.clicks.items[known]]
    assert found == served
    assert [len(videos) for videos in served.values()] == [0, 0, 1, 2, 3, 4, 5]


def test_what_is_clicked_is_learned(config: Config, store: StateStore, tmp_path: Path) -> None:
    before, workspace = serving(config, store), Workspace(config.workspace)
    clicked = browse(before, "newcomer", topic=2)
    assert clicked
    assert len(before.bundle.user("newcomer").clicked) == 0
    before.refresh(now_ms())

    done = export_events(config, str(tmp_path / "log"))
    assert (done.impressions, done.waiting) == (PAGES * 4, 0)
    for stage in (load_stage("ingest"), TRAIN, load_stage("publish")):
        assert run_stage(workspace, stage, config)[1]
    assert workspace.rejects("ingest").num_rows == 0

    after = serving(config, store)
    assert after.bundle.version != before.bundle.version
    assert store.since(after.bundle.info.log_until) == Since(done.upto, 0)
    # The log speaks of the newcomer now, the store no more, and nothing counts twice.
    assert (
        sorted(after.bundle.user("newcomer").clicked.tolist()) == sorted(after.user("newcomer").clicked.tolist()) == sorted(clicked)
    )
    assert after.exposures.tolist() == before.exposures.tolist()
    assert after.clicks.tolist() == before.clicks.tolist()
    # Other answers, from the same history.
    candidates, at = np.arange(1, 41, dtype=np.int32), now_ms()
    scores = [asyncio.run(each.rank("newcomer", each.user("newcomer"), at, candidates, {})) for each in (before, after)]
    assert np.abs(scores[0] - scores[1]).max() > 1e-3
    # Another export, which brings nothing but a click, hides it from no bundle whose log does not have it.
    assert after.bundle.info.log_upto == done.upto
    unclicked = next(item for item in after.user("newcomer").seen.tolist() if item not in clicked)
    store.add_events([Event("later", "newcomer", after.bundle.item_ids[unclicked], "click", now_ms())])
    assert export_events(config, str(tmp_path / "log")).upto == done.upto + 1
    anew = serving(config, store)
    assert anew.user("newcomer").clicked.tolist() == [*after.bundle.user("newcomer").clicked.tolist(), unclicked]
    assert anew.clicks[unclicked] == after.clicks[unclicked] + 1
