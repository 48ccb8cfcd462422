"""The pages that are evaluated are those that a service would have answered with."""

import asyncio
import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayrec.config import Config, Selection, load, with_values
from rayrec.data.loading import RANKER
from rayrec.evaluation.pages import Counters, TestUser, find_test_users, page_metrics, recommended_pages
from rayrec.ranking.scorer import Scorer
from rayrec.recall.items import ItemData
from rayrec.serving import recommender as serving
from rayrec.serving.bundle import Bundle, load_scorer, locate
from rayrec.serving.pages import Page
from rayrec.serving.recommender import Recommender, UserState
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.serving.state.store import Event
from rayrec.stages.learned import with_learned
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.encoded import whole_log
from tests.serving.small_world import LOG_STARTS, TRAIN, write_tables

USERS, VIDEOS, TOPICS, NEW_USERS = 280, 150, 6, 20
COLLABORATIVE = {
    "collaborative": {"model": "pure_svd", "options": {"factors": 6}},
    "recall.sources": {"topics": 0.3, "user_vector": 0.3, "item_neighbours": 0.2},
}
RULES = {"max_per_topic": 3, "max_per_author": 2, "explore": 0.25}


def catalog() -> pa.Table:
    """A third of the videos has two topics; every tenth author is unknown; the last 30 videos are never shown in the log.

    Half of those are published while the last part of the log, the test period, goes on.
    """
    ids = [f"v{n}" for n in range(VIDEOS)]
    authors = [None if n % 10 == 0 else f"a{n % 9}" for n in range(VIDEOS)]
    later = [LOG_STARTS + (n % 2) * (4200 + (n - 120) * 40) * 60_000 if n >= VIDEOS - 30 else LOG_STARTS for n in range(VIDEOS)]
    return pa.table({"video_id": ids, "author_id": authors, "published_at": pa.array(later, pa.int64())})


def topics_of(video: int) -> list[int]:
    return [video % TOPICS, TOPICS - 1] if video % 3 == 0 and video % TOPICS != TOPICS - 1 else [video % TOPICS]


def interactions() -> pa.Table:
    """Requests of four videos each, one after the other. Users like two topics; the last of them come only in the end."""
    rng = np.random.default_rng(0)
    early = rng.permutation(np.repeat(np.arange(USERS - NEW_USERS), 4))
    requests = np.concatenate([early, rng.permutation(USERS)])
    rows = []
    for number, user in enumerate(requests.tolist()):
        for place, video in enumerate(rng.choice(VIDEOS - 30, 4, replace=False).tolist()):
            likes = {user % TOPICS, (user + 1) % TOPICS} & set(topics_of(video))
            clicked = bool(rng.random() < (0.8 if likes else 0.1))
            device = ("phone", "tv")[number % 2]
            rows.append((f"u{user}", f"v{video}", LOG_STARTS + (number * 4 + place) * 60_000, clicked, device))
    columns = ("user_id", "video_id", "shown_at", "clicked", "device")
    return pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """With every rule of selection on, and fewer candidates than there are videos."""
    settings = {"candidates": 60, "min_exposures": 3, "clicks": 6}
    ranker = {"context_fields": ["hour", "device"], "history_length": 4}
    return load(None, [f"workspace={tmp_path}", f"recall={settings}", f"selection={RULES}", f"ranker={ranker}", "split.test=0.21"])


def trained(config: Config) -> Workspace:
    workspace = Workspace(config.workspace)
    lists = pa.array([topics_of(n) for n in range(VIDEOS)], pa.list_(pa.int32()))
    topics = pa.table({"video_id": catalog()["video_id"], "topics": lists, "similarity": [[0.9] * len(each) for each in lists]})
    centres = pa.table({"topic": range(TOPICS), "centre": [[1.0]] * TOPICS, "videos": [25] * TOPICS, "tags": [["word"]] * TOPICS})
    for tables in ({"catalog": catalog(), "interactions": interactions()}, {"topics": topics, "topic_centres": centres}):
        run_stage(workspace, write_tables(tables), config)
    run_stage(workspace, TRAIN, config)
    if config.collaborative is not None:
        run_stage(workspace, load_stage("collaborative"), config)
    return workspace


def served(
    workspace: Workspace, config: Config, users: list[tuple[str, TestUser]], k: int, monkeypatch: pytest.MonkeyPatch
) -> list[Page]:
    """What a service answers each user at the time of their first test impression, from a bundle that ends before the first."""
    begin = min(user.at for _, user in users)
    known = interactions().filter(pc.less(interactions()["shown_at"], begin))
    run_stage(workspace, write_tables({"catalog": catalog(), "interactions": known}), config, force=True)
    run_stage(workspace, load_stage("publish"), config)
    version, folder = locate(workspace, None)
    bundle, scorer = Bundle.load(workspace.fs, folder, version), load_scorer(workspace.fs, folder)

    async def rank(user_id: str, user: UserState, at: int, items: np.ndarray, context: dict[str, Any]) -> np.ndarray:
        return scorer.score([user_id], [user.clicked], [user.clicked_at], np.array([at]), items[None], [context])[0]

    now = begin
    monkeypatch.setattr(serving, "now_ms", lambda: now)
    store = SqliteStore(Path(config.workspace) / "events.db")
    written: Future[list[Event]] = Future()
    written.set_result([])
    monkeypatch.setattr(store, "submit", lambda events: written)  # offline, all pages are made from the same counters
    recommender = Recommender(bundle, store, rank, config.recall, config.selection, config.seed)
    pages = []
    for user_id, user in users:
        now = user.at
        recommender.refresh(now)
        pages.append(asyncio.run(recommender.recommend(user_id, k, [], context=user.context)))
    store.close()
    return pages


@pytest.mark.parametrize("case", ["topics", "no topics", "collaborative"])
def test_offline_and_served_pages_are_equal_with_every_rule_of_selection(
    config: Config, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the ranker does not use the topics that recall has, and with the sources of a collaborative model."""
    labels = {"topic", "popular", "new"}
    if case == "no topics":
        config = config.model_copy(update={"ranker": config.ranker.model_copy(update={"topics": False})})
    elif case == "collaborative":
        config, labels = with_values(config, COLLABORATIVE), labels | {"taste", "similar"}
    workspace, k = trained(config), config.evaluation.k
    data = whole_log(workspace, config)
    published_at = np.append(0, catalog()["published_at"].to_numpy())
    test_users = find_test_users(data, published_at, int(data.test.at[0]))
    assert ((published_at > test_users[0].at) & (published_at < test_users[-1].at)).sum() > 5
    assert len(test_users) >= 200
    scorer = Scorer.load(workspace.fs, f"{workspace.folder('train')}/{RANKER}")
    items = ItemData.of_tables(scorer.item_ids, workspace.read("catalog"), workspace.read("topics"), lambda: None)
    run = StageRun(workspace, load_stage("evaluate"), config, "", {}, None)
    items = with_learned(run, items, scorer.item_ids)

    def evaluated(selection: Selection) -> list[list[int]]:
        counters = Counters.of(data)
        found = recommended_pages(test_users, scorer, items, counters, published_at, config.recall, selection, k, config.seed)
        return [page.tolist() for page in asyncio.run(found)[0]]

    offline = evaluated(config.selection)
    run_stage(workspace, load_stage("evaluate"), config)
    report = json.loads(workspace.read_file(f"{workspace.folder('evaluate')}/report.json"))
    users = [(data.users.ids[user.user], user) for user in test_users]
    online = served(workspace, config, users, k, monkeypatch)

    assert [page.items.tolist() for page in online] == offline
    measured = page_metrics(test_users, [page.items for page in online], k)
    assert {name: report["pages"]["with topics"][name] for name in measured} == measured
    # Each rule has changed pages, and every kind of candidate is among the videos.
    assert {label for page in online for label in page.why} == labels
    for name in RULES:
        without = config.selection.model_copy(update={name: Selection.model_fields[name].default})
        assert sum(one != other for one, other in zip(evaluated(without), offline, strict=True)) > 20, name
