"""A request's steps, without a server, with a ranker that likes high item numbers."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayrec.recall import steps
from rayrec.serving.bundle import Bundle
from rayrec.serving.recommendation import Page, Recommender, UserState, now_ms
from rayrec.serving.store import Event
from tests.serving.small_world import FRESH, topic_of, video


def ask(recommender: Recommender, user: str, k: int = 5, exclude: list[str] | None = None) -> Page:
    return asyncio.run(recommender.recommend(user, k, exclude or []))


def videos(recommender: Recommender, page: Page) -> list[str]:
    return [recommender.bundle.item_ids[item] for item in page.items]


def click(recommender: Recommender, user: str, *numbers: int) -> None:
    now = now_ms()
    events = [Event(f"{user}-{n}-{now}", user, video(n), "click", now + place) for place, n in enumerate(numbers)]
    recommender.store.add_events(events)


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


def test_every_video_comes_once_and_then_there_are_none(recommender: Recommender) -> None:
    everything = videos(recommender, ask(recommender, "new", k=1000))
    assert len(everything) == len(set(everything)) == 40
    assert videos(recommender, ask(recommender, "new", k=10)) == []


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
    assert set(page.topics) <= {2, steps.POPULAR, steps.FRESH}


def test_an_unknown_user_gets_popular_and_fresh_videos(recommender: Recommender) -> None:
    assert set(ask(recommender, "new", k=40).topics) == {steps.POPULAR, steps.FRESH}


def test_a_click_changes_what_is_searched_for(recommender: Recommender) -> None:
    click(recommender, "new", 36, 0, 4)  # topic 0
    page = ask(recommender, "new", k=40)
    assert set(page.topics) == {0, steps.POPULAR, steps.FRESH}
    assert not {video(36), video(0), video(4)} & set(videos(recommender, page))


def test_the_history_that_is_ranked_by_is_log_then_events(bundle: Bundle, recommender: Recommender) -> None:
    given = []

    async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
        given.append((user_id, user, at, context))
        return np.zeros(len(candidates), np.float32)

    recommender.rank = rank
    click(recommender, "u1", 39, 3)
    asyncio.run(recommender.recommend("u1", 5, [], {"device": "tv"}))
    user_id, user, at, context = given[0]
    assert user_id == "u1"
    assert user.clicked.tolist() == [*bundle.user("u1").clicked, bundle.item_of["v39"], bundle.item_of["v3"]]
    assert user.clicked_at[:-2].tolist() == bundle.user("u1").clicked_at.tolist()
    assert user.clicked_at[-1] - user.clicked_at[-2] == 1
    assert abs(at - now_ms()) < 5000
    assert context == {"device": "tv"}


def test_events_that_the_log_holds_already_count_once(recommender: Recommender) -> None:
    before = recommender.bundle.facts.log_until
    recommender.store.add_events(
        [Event("old", "new", video(0), "click", before), Event("old2", "new", video(0), "impression", before)]
    )
    assert len(recommender.user("new").clicked) == 0
    exposures = recommender._exposures.copy()
    recommender.refresh(now_ms())
    assert recommender._exposures.tolist() == exposures.tolist()


def test_what_was_shown_is_logged_under_the_request(recommender: Recommender) -> None:
    page = ask(recommender, "new", k=3)
    counts = recommender.store.counts(0, 0)
    assert sorted(counts.video_ids) == sorted(videos(recommender, page))
    assert counts.exposures.tolist() == [1, 1, 1]
    assert recommender.store._rows("SELECT DISTINCT request_id, kind FROM events", ()) == [(page.request_id, "impression")]


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
    recommender._published_at[bundle.item_of["v39"]] = later
    recommender.refresh(now_ms())
    assert "v39" not in videos(recommender, ask(recommender, "new", k=40))
    recommender.refresh(later)
    assert videos(recommender, ask(recommender, "new", k=40)) == ["v39"]


def test_each_step_is_timed_and_counted(recommender: Recommender) -> None:
    trace = ask(recommender, "u1", k=5).trace
    assert [step.name for step in trace.steps] == ["hydrate", "source", "drop", "backfill", "score", "select", "log"]
    counts = {step.name: step.count for step in trace.steps}
    assert counts["hydrate"] == len(recommender.bundle.user("u1").clicked)
    assert counts["drop"] <= counts["source"] <= counts["backfill"] == counts["score"]
    assert counts["select"] == counts["log"] == 5
    assert all(step.milliseconds >= 0 for step in trace.steps)


def test_without_topics_recall_is_popular_and_fresh(bundle: Bundle, recommender: Recommender) -> None:
    place, field = bundle.items.column_names.index("topics"), bundle.items.schema.field("topics")
    items = bundle.items.set_column(place, field, pa.nulls(bundle.items.num_rows, field.type))
    bare = Recommender(replace(bundle, items=items), recommender.store, recommender.rank, recommender.settings, seed=0)
    assert set(ask(bare, "u1", k=40).topics) == {steps.POPULAR, steps.FRESH}
