"""A catalog without a log: what is published, and which pages are made of it before anybody has clicked and after."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayrec.config import Config
from rayrec.serving.bundle import Bundle, locate
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.pages import Page
from rayrec.serving.recommender import Recommender, now_ms, rank_in_order
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.rollout.versions import try_out
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.serving.state.store import Event
from rayrec.stages.pipeline import load_stage, run_stages
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace, WorkspaceError
from tests.serving.http.helpers import Listen
from tests.serving.small_world import build_workspace, publish_without_log, topic_of, video


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A workspace that had a log, and whose present catalog has none."""
    config = build_workspace(tmp_path_factory.mktemp("no-log"))
    publish_without_log(config)
    return config


@pytest.fixture
def recommender(world: Config, tmp_path: Path) -> Iterator[Recommender]:
    workspace, store = Workspace(world.workspace), SqliteStore(tmp_path / "events.db")
    version, folder = locate(workspace, None)
    bundle = Bundle.load(workspace.fs, folder, version)
    yield Recommender(bundle, store, rank_in_order, world.recall, world.selection, seed=0)
    store.close()


def page_of(recommender: Recommender, user: str, k: int) -> tuple[Page, list[int]]:
    """A page, and the topic of each of its videos."""
    page = asyncio.run(recommender.recommend(user, k, []))
    return page, [topic_of(int(name.removeprefix("v"))) for name in recommender.items.ids(page.items)]


def send(recommender: Recommender, kind: str, user: str, *numbers: int) -> None:
    now = now_ms()
    events = [Event(f"{kind}-{n}", user, video(n), kind, now + place) for place, n in enumerate(numbers)]  # type: ignore[arg-type]
    recommender.store.add_events(events)


def test_the_bundle_has_no_ranker_and_knows_of_no_user(recommender: Recommender, world: Config) -> None:
    bundle = recommender.bundle
    assert not bundle.info.has_ranker
    assert not Path(locate(Workspace(world.workspace), None)[1], "ranker").exists()
    assert len(bundle.item_ids) == 41
    assert bundle.top_users(5) == []
    assert not any(counts.any() for counts in bundle.counters())
    asyncio.run(try_out(recommender))


def test_new_users_get_fresh_videos_of_all_topics_each_user_others(recommender: Recommender) -> None:
    found = [page_of(recommender, f"new{n}", 8) for n in range(3)]
    for page, topics in found:
        counts = Counter(topics)  # topics take turns, in each turn in another order: a page may begin in the middle of one
        assert set(counts) == set(range(4))
        assert max(counts.values()) <= 3
        assert set(page.why) == {"new"}
        assert page.scores.tolist() == sorted(set(page.scores.tolist()), reverse=True)
        assert 0 < page.scores.min() < page.scores.max() == 1
    assert len({tuple(page.items) for page, _ in found}) > 1


def test_who_clicks_gets_videos_of_these_topics_in_proportion(recommender: Recommender) -> None:
    send(recommender, "click", "ann", 0, 4, 1)
    recommender.refresh(now_ms())
    page, topics = page_of(recommender, "ann", 9)
    assert topics == [0, 1, 0] * 3  # topic 0 was clicked twice as often
    assert set(page.why) == {"topic"}
    assert not {video(n) for n in (0, 4, 1)} & set(recommender.items.ids(page.items))


def test_what_many_click_comes_first_and_what_few_click_comes_last(recommender: Recommender) -> None:
    for user in range(4):
        for kind, numbers in (("impression", (5, 6)), ("click", (6,))):
            now = now_ms()
            events = [Event(f"{kind}{n}", f"u{user}", video(n), kind, now) for n in numbers]  # type: ignore[arg-type]
            recommender.store.add_events(events)
    recommender.refresh(now_ms())
    page, _ = page_of(recommender, "new", 100)
    names = recommender.items.ids(page.items)
    assert (names[0], names[-1], len(names)) == (video(6), video(5), 40)


def test_stages_that_need_a_log_are_left_out_and_refused_alone(world: Config, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    caplog.set_level("INFO")
    stages = [load_stage(name) for name in ("encode", "train", "evaluate", "publish")]
    run_stages(stages, world, on_done=lambda manifest, worked: done.append(manifest.stage))
    assert done == ["publish"]
    assert "train: skipped, because the log has no impressions, so there is nothing to train on yet" in caplog.messages
    for name in ("train", "evaluate"):
        with pytest.raises(WorkspaceError, match=r"the log has no impressions.*; `rayrec events export CONFIG` makes a log"):
            run_stage(Workspace(world.workspace), load_stage(name), world)


def test_all_routes_answer(recommender: Recommender, world: Config, listen: Listen) -> None:
    client = listen(create_api(lambda: Arms(recommender), world.serving, Keys(), LocalMetrics(), list))
    videos = client.post("/v1/recommend", json={"user_id": "new", "k": 5}).json()["videos"]
    assert [each["score"] for each in videos] == pytest.approx([1, 0.975, 0.95, 0.925, 0.9])
    assert client.get("/readyz").json() == {"bundle": recommender.bundle.version}
    numbers = client.get("/v1/dashboard").json()
    assert (numbers["ranker"], numbers["metrics"], numbers["users"], len(numbers["queues"])) == (False, {}, [], 4)
    assert client.get("/v1/similar/v0").json()["videos"][0]["video_id"] == video(4)
    assert client.get("/v1/users/new").json()["seen"] == 5
