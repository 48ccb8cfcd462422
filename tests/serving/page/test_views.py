"""The feed reports the slides that came into view, in a real browser, and these alone count as seen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayrec.config import Config, Serving
from rayrec.serving.bundle import Bundle
from rayrec.serving.recommender import Recommender, now_ms
from rayrec.serving.state.sqlite import SqliteStore
from tests.serving.page.feed import DESK, PHONE, Feed, Show
from tests.serving.small_world import rank_by_last_click

SIZES = pytest.mark.parametrize("size", [DESK, PHONE])
REPORTED = Serving(views="reported")


@pytest.fixture
def seeing(bundle: Bundle, published: Config, tmp_path: Path) -> Iterator[Recommender]:
    store = SqliteStore(tmp_path / "views.db", "view")
    yield Recommender(bundle, store, rank_by_last_click, published.recall, published.selection, seed=0)
    store.close()


def rows(feed: Feed, kind: str) -> list[dict[str, Any]]:
    found = [row for piece in feed.recommender.store.read(0, None) for row in piece.to_pylist()]
    return [row for row in found if row["kind"] == kind]


def viewed(feed: Feed, *expected: str) -> list[dict[str, Any]]:
    """The views, once those that are expected have been reported."""
    for _ in range(200):
        views = rows(feed, "view")
        if set(expected) <= {row["video_id"] for row in views}:
            return views
        feed.page.wait_for_timeout(50)
    raise AssertionError(f"no views of {expected}, only {views}")


def stay(feed: Feed) -> str:
    """Long enough in front of the current slide."""
    feed.page.wait_for_timeout(500)
    return feed.current()


@SIZES
def test_slides_that_came_into_view_are_reported_and_no_others(show: Show, seeing: Recommender, size: dict[str, int]) -> None:
    feed = show("/?user=ann", size, serves=seeing, serving=REPORTED)
    delivered = feed.videos()
    first = stay(feed)
    second = feed.move("j")
    stay(feed)
    third = feed.move("j")
    views = viewed(feed, first, second)
    assert {row["video_id"] for row in views} <= {first, second, third}
    assert delivered[3] not in {row["video_id"] for row in viewed(feed, first)}
    request = rows(feed, "impression")[0]["request_id"]
    (told,) = [row for row in views if row["video_id"] == first]  # in one event, with the time in view
    assert (told["user_id"], told["request_id"], told["arm"]) == ("ann", request, "stable")
    assert 0.4 < told["dwell_s"] < 30
    before = seeing.exposures.copy()
    seeing.refresh(now_ms())
    counted = {seeing.bundle.item_ids[item] for item in (seeing.exposures - before).nonzero()[0]}
    assert {first, second} <= counted <= {first, second, third}


@SIZES
def test_a_slide_that_flies_past_is_not_seen(show: Show, seeing: Recommender, size: dict[str, int]) -> None:
    feed = show("/?user=ann", size, serves=seeing, serving=REPORTED)
    delivered = feed.videos()
    stay(feed)
    feed.page.evaluate("feed.scrollTo({ top: 2 * feed.clientHeight, behavior: 'instant' })")
    feed.page.wait_for_selector(f"#feed > .slide:not([inert])[data-video={delivered[2]}]")
    stay(feed)
    feed.move("j")
    views = viewed(feed, delivered[0], delivered[2])
    assert delivered[1] not in {row["video_id"] for row in views}


@SIZES
def test_a_slide_that_is_skipped_at_once_is_seen_and_never_comes_back(
    show: Show, seeing: Recommender, size: dict[str, int]
) -> None:
    feed = show("/?user=ann", size, serves=seeing, serving=REPORTED)
    first = feed.videos()[0]
    feed.page.keyboard.press("s")
    feed.events("ann", "skip", first)
    viewed(feed, first)  # which the skip implies
    assert first in seeing.items.ids(seeing.user("ann").seen)


def test_pages_are_numbered_within_a_visit_and_videos_within_a_page(show: Show, seeing: Recommender) -> None:
    feed = show("/?user=ann", serves=seeing, serving=REPORTED)
    feed.videos()
    feed.move("j")
    feed.page.wait_for_function("() => document.querySelectorAll('#feed > .slide').length >= 8")
    shown = rows(feed, "impression")
    assert [row["position"] for row in shown[:8]] == [0, 1, 2, 3] * 2
    assert [row["page_number"] for row in shown[:8]] == [0] * 4 + [1] * 4
    assert len({row["session_id"] for row in shown}) == 1
    feed.page.reload()
    feed.videos()
    assert len({row["session_id"] for row in rows(feed, "impression")}) == 2


def test_the_time_in_view_is_told_when_the_page_is_left(show: Show, seeing: Recommender) -> None:
    feed = show("/?user=ann", serves=seeing, serving=REPORTED)
    first = feed.videos()[0]
    stay(feed)
    feed.page.wait_for_timeout(300)
    feed.page.goto("about:blank")
    (told,) = [row for row in viewed(feed, first) if row["dwell_s"]]
    assert 0.7 < told["dwell_s"] < 30
