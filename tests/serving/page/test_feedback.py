"""The feed in a real browser obeys: less of a topic or an author, a block, and Undo, on a desk and on a phone."""

from collections.abc import Callable
from typing import Any

import pytest

from rayrec.serving.recommender import Recommender, now_ms
from rayrec.serving.state.store import Event
from tests.serving.page.feed import DESK, PHONE, Show
from tests.serving.small_world import author_of, topic_of

SIZES = pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])


def feed_of_ann(show: Show, size: dict[str, int]) -> Any:
    # Without motion, as a click on what moves is tried again after a scroll, which would leave the slide.
    page = show("/?user=ann", size, reduced_motion="reduce").page
    page.wait_for_selector("#feed[aria-busy=false] > .slide:not([inert])")
    return page


def number_in_view(page: Any) -> int:
    return int((page.locator("#feed > .slide:not([inert])").get_attribute("data-video") or "")[1:])


def numbers_ahead(page: Any) -> list[int]:
    """The videos behind the one in view, once nothing is being asked for."""
    page.wait_for_selector("#feed[aria-busy=false]")
    videos = page.locator("#feed > .slide:not(.end)").evaluate_all("slides => slides.map(slide => slide.dataset.video)")
    numbers = [int(video[1:]) for video in videos]
    return numbers[numbers.index(number_in_view(page)) + 1 :]


def choose(page: Any, kind: str) -> int:
    """Chooses an entry of the menu of the video in view, and waits for the next one. Returns the video's number."""
    before = number_in_view(page)
    page.locator(".slide:not([inert]) .less").click()
    page.locator(f".slide:not([inert]) .menu .{kind}").click()
    page.wait_for_selector(f"#feed > .slide:not([inert]):not([data-video=v{before}])")
    return before


def told(recommender: Recommender) -> list[tuple[str, str]]:
    rows = [row for piece in recommender.store.read(0, None) for row in piece.to_pylist()]
    return [(row["kind"], row["video_id"]) for row in rows if row["kind"] not in ("impression", "watch", "click")]


def until(page: Any, done: Callable[[], bool]) -> None:
    for _ in range(100):
        if done():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come to pass")


@SIZES
def test_less_of_a_topic_acts_on_what_comes_next(show: Show, recommender: Recommender, size: dict[str, int]) -> None:
    # On a topic whose videos have no files, of which some could not be played.
    recommender.store.add_events([Event("c", "ann", "v3", "click", now_ms())])
    page = feed_of_ann(show, size)
    assert all(topic_of(n) == topic_of(number_in_view(page)) for n in numbers_ahead(page))
    chosen = choose(page, "less_topic")
    until(page, lambda: ("less_topic", f"v{chosen}") in told(recommender) and len(numbers_ahead(page)) >= 3)
    seen = [number_in_view(page), *numbers_ahead(page)]
    assert not [n for n in seen if topic_of(n) == topic_of(chosen)]
    said = page.locator("#wished").inner_text()
    assert "Fewer videos about" in said
    assert "from now on" in said
    if size == PHONE:
        page.locator("#open-panel").click()
    wish = page.locator("#wish-list li")
    assert wish.count() == 1
    assert "as you asked" in wish.inner_text()
    wish.get_by_role("button").click()  # Undo
    until(page, lambda: ("undo", f"v{chosen}") in told(recommender))
    page.wait_for_selector("#wishes", state="hidden")
    assert recommender.user("ann").said == []


@SIZES
def test_a_blocked_author_is_gone_and_undo_brings_them_back(show: Show, recommender: Recommender, size: dict[str, int]) -> None:
    known = [Event(f"seen {n}", "ann", f"v{n}", "impression", now_ms()) for n in range(40) if author_of(n) is None]
    recommender.store.add_events(known)  # so that the first video in view has an author who is known
    page = feed_of_ann(show, size)
    assert author_of(number_in_view(page)) is not None
    chosen = choose(page, "block_author")
    until(page, lambda: len(recommender.user("ann").said) == 1 and len(numbers_ahead(page)) >= 3)
    assert not [n for n in [number_in_view(page), *numbers_ahead(page)] if author_of(n) == author_of(chosen)]
    page.locator("#wished button").click()
    until(page, lambda: ("undo", f"v{chosen}") in told(recommender))
    assert recommender.user("ann").said == []
    assert page.locator("#wished").is_hidden()


@SIZES
def test_the_menu_fits_and_is_left_by_the_keyboard(show: Show, size: dict[str, int]) -> None:
    page = feed_of_ann(show, size)
    assert author_of(number_in_view(page)) is None
    assert page.locator(".slide:not([inert]) .menu .less_topic").count() == 1
    assert page.locator(".slide:not([inert]) .menu .block_author").count() == 0  # whom should it block?
    page.keyboard.press("x")
    menu = page.locator(".slide:not([inert]) .menu")
    assert menu.is_visible()
    for button in menu.get_by_role("button").all():
        box = button.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size["width"]
        assert box["y"] + box["height"] <= size["height"]
        assert box["height"] >= 24
    page.keyboard.press("Escape")
    assert menu.is_hidden()
    assert page.evaluate("() => document.activeElement.className") == "less"


def test_a_video_says_what_moved_it(show: Show, recommender: Recommender) -> None:
    page = feed_of_ann(show, DESK)
    liked = number_in_view(page)
    page.keyboard.press("l")
    until(
        page,
        lambda: ("like", f"v{liked}") in told(recommender) and any(topic_of(n) == topic_of(liked) for n in numbers_ahead(page)),
    )
    reasons = page.locator(".slide .moved").all_text_contents()
    assert any("you liked a video" in reason for reason in reasons)
