"""A request's steps, without a server, with a ranker that likes high item numbers."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Config, Selection
from rayrec.recall.source import NO_TOPIC
from rayrec.serving.bundle import Bundle, load_scorer, locate
from rayrec.serving.pages import AGAIN, Page
from rayrec.serving.recommender import Recommender, UserState, now_ms
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.serving.state.store import Event
from rayrec.workspace.versions import Workspace
from tests.serving.small_world import FRESH, author_of, build_workspace, publish_catalog_of, rank_by_number, topic_of, video


def ask(recommender: Recommender, user: str, k: int = 5, exclude: list[str] | None = None) -> Page:
    return asyncio.run(recommender.recommend(user, k, exclude or []))


def videos(recommender: Recommender, page: Page) -> list[str]:
    return videos_of(recommender, page.items)


def click(recommender: Recommender, user: str, *numbers: int) -> None:
    now = now_ms()
    events = [Event(f"{user}-{n}-{now}", user, video(n), "click", now + place) for place, n in enumerate(numbers)]
    recommender.store.add_events(events)


def videos_of(recommender: Recommender, items: np.ndarray) -> list[str]:
    return [recommender.bundle.item_ids[item] for item in items]


def with_column(bundle: Bundle, name: str, values: list[Any]) -> Bundle:
    """The bundle with other values in a column of its items."""
    place, field = bundle.items.column_names.index(name), bundle.items.schema.field(name)
    return replace(bundle, items=bundle.items.set_column(place, field, pa.array(values, field.type)))


def remade(recommender: Recommender, bundle: Bundle, **selection: float) -> Recommender:
    """Over another bundle, with the same store."""
    return Recommender(bundle, recommender.store, recommender.rank, recommender.settings, Selection(**selection), seed=0)


def test_the_best_scored_come_first(recommender: Recommender) -> None:
    page = ask(recommender, "new", k=4)
    assert page.items.tolist() == sorted(page.items, reverse=True)
    assert page.scores.tolist() == pytest.approx((page.items / 100).tolist())


def test_what_was_seen_in_the_log_or_online_does_not_come_back(recommender: Recommender) -> None:
    seen = {recommender.bundle.item_ids[item] for item in recommender.bundle.user("u1").seen}
    pages = [videos(recommender, ask(recommender, "u1", k=7)) for _ in range(3)]
    shown = [video_id for page in pages for video_id in page]
    assert len(shown) == len(set(shown)) == 21
    assert not set(shown) & seen


def test_every_video_comes_once_before_any_comes_again(recommender: Recommender) -> None:
    everything = videos(recommender, ask(recommender, "new", k=1000))
    assert len(everything) == len(set(everything)) == 40
    page = ask(recommender, "new", k=10)
    assert videos(recommender, page) == everything[:10]
    assert set(page.why) == {AGAIN}


def test_excluded_videos_are_not_shown_and_unknown_ones_do_no_harm(recommender: Recommender) -> None:
    first = videos(recommender, ask(recommender, "new", k=3))
    other = videos(recommender, ask(recommender, "other", k=3, exclude=[*first, "no such video"]))
    assert len(other) == 3
    assert not set(first) & set(other)


def test_a_users_topics_bring_the_candidates(recommender: Recommender) -> None:
    page = ask(recommender, "u2", k=40)
    by_topic = page.items[page.topics == 2]
    assert len(by_topic)
    assert all(topic_of(item - 1) == 2 for item in by_topic)
    assert set(page.why) == {"topic", "popular", "new", AGAIN}
    assert set(page.topics[page.why != "topic"]) == {NO_TOPIC}
    assert set(page.topics) == {2, NO_TOPIC}


def test_an_unknown_user_gets_popular_and_fresh_videos(recommender: Recommender) -> None:
    assert set(ask(recommender, "new", k=40).why) == {"popular", "new"}


def test_a_click_changes_what_is_searched_for(recommender: Recommender) -> None:
    click(recommender, "new", 36, 0, 4)  # topic 0
    page = ask(recommender, "new", k=40)
    assert set(page.topics) == {0, NO_TOPIC}
    assert set(page.why) == {"topic", "popular", "new", AGAIN}
    assert videos(recommender, page)[37:] == [video(36), video(0), video(4)]


def test_the_history_that_is_ranked_by_is_log_then_events(bundle: Bundle, recommender: Recommender) -> None:
    given = []

    async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
        given.append((user_id, user, at, context))
        return np.zeros(len(candidates), np.float32)

    recommender.rank = rank
    click(recommender, "u1", 39, 3)
    asyncio.run(recommender.recommend("u1", 5, [], context={"device": "tv"}))
    user_id, user, at, context = given[0]
    assert user_id == "u1"
    assert user.clicked.tolist() == [*bundle.user("u1").clicked, bundle.item_of["v39"], bundle.item_of["v3"]]
    assert user.clicked_at[:-2].tolist() == bundle.user("u1").clicked_at.tolist()
    assert user.clicked_at[-1] - user.clicked_at[-2] == 1
    assert abs(at - now_ms()) < 5000
    assert context == {"device": "tv"}
    asyncio.run(recommender.recommend("u2", 5, [], context={"hour": None}))
    (events,) = recommender.store.read(1, None)
    assert events["context"].to_pylist() == [None] * 2 + ['{"device":"tv"}'] * 5 + [None] * 5


def test_events_that_the_log_holds_already_count_once(recommender: Recommender) -> None:
    before = recommender.bundle.info.log_until
    recommender.store.add_events(
        [Event("old", "new", video(0), "click", before), Event("old2", "new", video(0), "impression", before)]
    )
    assert len(recommender.user("new").clicked) == 0
    exposures = recommender.exposures.copy()
    recommender.refresh(now_ms())
    assert recommender.exposures.tolist() == exposures.tolist()


def test_what_was_shown_is_logged_under_the_request_and_its_arm(recommender: Recommender) -> None:
    page = asyncio.run(recommender.recommend("new", 3, [], arm="canary"))
    [rows] = [table.to_pylist() for table in recommender.store.read(0, None)]
    assert [row["video_id"] for row in rows] == videos(recommender, page)
    assert {(row["user_id"], row["request_id"], row["kind"], row["arm"]) for row in rows} == {
        ("new", page.request_id, "impression", page.arm)
    }
    assert page.arm == "canary"


def test_clicks_reorder_the_queues_on_refresh(recommender: Recommender) -> None:
    assert not recommender.refresh(now_ms())  # nothing happened
    queue = recommender.queues.queue(3)
    last = [item for item in queue if item - 1 not in FRESH][-1]
    rows = [
        Event(f"{kind}{n}", f"p{n}", recommender.bundle.item_ids[last], kind, now_ms())
        for n in range(60)
        for kind in ("impression", "click")
    ]
    recommender.store.add_events(rows)
    assert recommender.refresh(now_ms())
    assert recommender.queues.queue(3)[0] == last


def test_a_video_is_not_shown_before_it_is_published(bundle: Bundle, recommender: Recommender) -> None:
    later = now_ms() + 3_600_000
    times = bundle.items["published_at"].to_pylist()
    times[bundle.item_of["v39"] - 1] = later
    patient = remade(recommender, with_column(bundle, "published_at", times))
    assert "v39" not in videos(patient, ask(patient, "new", k=40))
    patient.refresh(later)
    assert videos(patient, ask(patient, "new", k=1)) == ["v39"]


def test_withdrawn_videos_are_nowhere_until_they_are_back(recommender: Recommender) -> None:
    recommender.store.withdraw("v35", True)
    assert recommender.refresh(now_ms())
    assert not recommender.refresh(now_ms())
    assert "v35" not in videos(recommender, ask(recommender, "new", k=40))
    item = recommender.bundle.item_of["v35"]
    assert item not in recommender.queues.queue(3)
    assert item not in recommender.similar("v31", 40)[0]
    recommender.store.withdraw("v35", False)
    assert recommender.refresh(now_ms())
    assert videos(recommender, ask(recommender, "new", k=1)) == ["v35"]


def test_blocked_authors_are_not_shown(recommender: Recommender) -> None:
    page = asyncio.run(recommender.recommend("u2", 40, [], ["a1", "a4", "nobody"]))
    authors = {author_of(int(video_id[1:])) for video_id in videos(recommender, page)}
    assert authors == {"a0", "a2", "a3", None}


def test_late_events_stand_where_they_happened(bundle: Bundle, recommender: Recommender) -> None:
    """An export told the log's events; a click from before its end that came after it counts, in its place in time."""
    log = bundle.user("u1")
    store = recommender.store
    store.add_events([Event("told", "u1", "v1", "click", int(log.clicked_at[0]))])
    store.exported(1, bundle.info.log_until)
    moment = int(log.clicked_at[1]) + 1
    store.add_events([Event("late", "u1", "v38", "click", moment)])
    user = remade(recommender, bundle).user("u1")
    assert user.clicked.tolist() == [*log.clicked[:2], bundle.item_of["v38"], *log.clicked[2:]]
    assert user.clicked_at[2] == moment


def test_a_forgotten_user_is_a_stranger_to_the_log_and_the_ranker(recommender: Recommender) -> None:
    names = []

    async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
        names.append(user_id)
        return np.zeros(len(candidates), np.float32)

    recommender.rank = rank
    recommender.store.forget("u2")
    user = recommender.user("u2")
    assert len(user.clicked) == len(user.seen) == 0
    ask(recommender, "u2")
    click(recommender, "u2", 3)  # what they do from now on counts
    assert recommender.user("u2").clicked.tolist() == [recommender.bundle.item_of["v3"]]
    ask(recommender, "u1")
    assert names == ["", "u1"]


def test_the_queues_say_how_fresh_they_are(recommender: Recommender) -> None:
    assert recommender.last_event_at == recommender.bundle.info.log_until
    start = recommender.refreshed_at
    recommender.refresh(start + 1000)
    assert (recommender.refreshed_at, recommender.last_event_at) == (start + 1000, recommender.bundle.info.log_until)
    click(recommender, "new", 1)
    recommender.refresh(start + 2000)
    assert recommender.refreshed_at == recommender.last_event_at == start + 2000


def test_similar_videos_are_near_in_the_vectors(recommender: Recommender) -> None:
    items, similarity = recommender.similar("v20", 4)
    assert videos_of(recommender, items) == ["v24", "v16", "v28", "v12"] or videos_of(recommender, items) == [
        "v16",
        "v24",
        "v12",
        "v28",
    ]
    assert similarity[:2] == pytest.approx(np.cos([0.04, 0.04]), abs=1e-5)
    assert items.dtype == np.int32
    everything = videos_of(recommender, recommender.similar("v20", 100)[0])
    assert not {"v20", "v39"} & set(everything)  # v39 has no vector


def test_without_vectors_similar_videos_share_topics(bundle: Bundle, recommender: Recommender) -> None:
    bare = remade(recommender, with_column(bundle, "vector", [None] * 40))
    items, similarity = bare.similar("v20", 3)
    assert {topic_of(int(video_id[1:])) for video_id in videos_of(bare, items)} == {0}
    assert similarity.tolist() == [1, 1, 1]
    clicks = bare.clicks[items].tolist()
    assert clicks == sorted(clicks, reverse=True)
    assert len(bare.similar("v20", 100)[0]) == 9


def test_a_share_of_the_page_explores(bundle: Bundle, recommender: Recommender) -> None:
    """The ranker likes the fresh videos least; half of the page is theirs all the same."""

    async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
        return (1 - candidates / 100).astype(np.float32)

    curious = remade(recommender, bundle, explore=0.5)
    curious.rank = rank
    fresh = curious.queues.is_fresh(ask(curious, "new", k=4).items)
    assert fresh.tolist() == [False, True, False, True]


@pytest.fixture
def grown(tmp_path: Path) -> Iterator[tuple[Recommender, Recommender, Config]]:
    """A recommender over 40 videos, and one over the bundle that was published when there were 41, without training."""
    config = build_workspace(tmp_path)
    workspace, store = Workspace(config.workspace), SqliteStore(tmp_path / "events.db")

    def load() -> Recommender:
        version, folder = locate(workspace, None)
        bundle = Bundle.load(workspace.fs, folder, version)
        return Recommender(bundle, store, rank_by_number, config.recall, config.selection, seed=0)

    old = load()
    publish_catalog_of(config, 41)
    yield old, load(), config
    store.close()


def test_a_new_video_enters_by_its_topics_without_training(grown: tuple[Recommender, Recommender, Config]) -> None:
    old, new, config = grown
    item = new.bundle.item_of["v40"]
    assert "v40" not in old.bundle.item_of
    assert old.bundle.version != new.bundle.version
    assert any(item in new.queues.queue(0, draw_seed=draw_seed) for draw_seed in range(8))
    assert "v40" in videos(new, ask(new, "u0", k=10))
    workspace = Workspace(config.workspace)
    scorer, before = (load_scorer(workspace.fs, locate(workspace, r.bundle.version)[1]) for r in (new, old))
    nobody, at, everything = [np.empty(0, np.int64)], np.array([now_ms()]), np.arange(1, 42)[None]
    scores = scorer.score(["u0"], nobody, nobody, at, everything)[0]
    assert 0 < scores[item - 1] < 1
    assert scores[:40] == pytest.approx(before.score(["u0"], nobody, nobody, at, everything[:, :40])[0], abs=1e-6)
    # Scored from its content: as an unknown video of its topic and author, which v36 (never shown) is too.
    assert scores[item - 1] == pytest.approx(scores[new.bundle.item_of["v36"] - 1], abs=1e-6)


def test_each_step_is_timed_and_counted(recommender: Recommender) -> None:
    trace = ask(recommender, "u1", k=5).trace
    assert [step.name for step in trace.steps] == ["hydrate", "source", "filter", "backfill", "score", "select", "log"]
    counts = {step.name: step.count for step in trace.steps}
    assert counts["hydrate"] == len(recommender.bundle.user("u1").clicked)
    assert counts["filter"] <= counts["source"] <= counts["backfill"] == counts["score"]
    assert counts["select"] == counts["log"] == 5
    assert all(step.milliseconds >= 0 for step in trace.steps)


def test_without_topics_recall_is_popular_and_fresh(bundle: Bundle, recommender: Recommender) -> None:
    bare = remade(recommender, with_column(bundle, "topics", [None] * 40))
    assert set(ask(bare, "u1", k=40).why) == {"popular", "new", AGAIN}
