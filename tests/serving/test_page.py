"""The feed page in a real browser: it plays, it tells what was done, and the next page follows."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI

from rayrec.serving.api import create_api
from rayrec.serving.recommendation import Recommender
from tests.serving.small_world import rank_by_last_click

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the feed page is not tested")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: the feed page is not tested")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]


@dataclass
class Feed:
    """The page, and what the browser complained of."""

    page: "playwright.Page"
    recommender: Recommender
    complaints: list[str]

    def videos(self) -> list[str]:
        """Those of the page, once it is loaded."""
        self.page.wait_for_selector("#feed[aria-busy=false]", state="attached")
        return self.page.locator("#feed > li").evaluate_all("items => items.map(item => item.dataset.video)")

    def next(self) -> list[str]:
        self.page.get_by_role("button", name="Next page").click()
        return self.videos()

    def play(self, video: str, seconds: float) -> float:
        """Play a video for a while; its length."""
        self.page.locator(f"[data-video={video}] .cover").click()
        element, deadline = self.page.locator("video"), time.monotonic() + 20
        while element.evaluate("video => video.currentTime") < seconds:
            assert time.monotonic() < deadline, "the video does not play"
            time.sleep(0.05)
        return element.evaluate("video => video.duration")

    def events(self, user: str) -> list[tuple[str, str, float | None]]:
        query = "SELECT kind, video_id, watch_s FROM events WHERE user_id = ? AND kind != 'impression' ORDER BY number"
        return self.recommender.store._rows(query, (user,))


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def feed(browser: "playwright.Browser", recommender: Recommender, listen: Callable[[FastAPI], httpx.Client]) -> Iterator[Feed]:
    recommender.rank = rank_by_last_click
    client = listen(create_api(lambda: recommender, [], most_k=100))
    page = browser.new_page(viewport={"width": 390, "height": 844})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda problem: complaints.append(str(problem)))
    page.on(
        "request",
        lambda request: complaints.append(request.url) if not request.url.startswith((str(client.base_url), "blob:")) else None,
    )
    page.goto(f"{client.base_url}/?user=ann")
    found = Feed(page, recommender, complaints)
    yield found
    page.close()


def test_a_click_changes_the_next_recommendations(feed: Feed) -> None:
    first, chosen = feed.videos(), "v30"  # of topic 2
    assert len(first) == 12
    assert feed.play(chosen, seconds=0.5) == pytest.approx(2, abs=0.2)
    second = feed.next()
    assert not set(first) & set(second)
    assert [int(video[1:]) % 4 for video in second[:5]] == [2] * 5  # what is like the click comes first
    assert feed.page.locator("#topics li").all_text_contents() == ["guitar, song1"]
    assert "topic: guitar, song" in feed.page.locator("#feed .why").all_text_contents()
    click, watch = feed.events("ann")
    assert click == ("click", chosen, None)
    assert watch[:2] == ("watch", chosen)
    assert 0.3 < (watch[2] or 0) <= 2.1

    # Another user, who saw the same first page and clicked nothing, gets another second page.
    feed.page.get_by_label("User").fill("bob")
    feed.page.get_by_role("button", name="Show").click()
    feed.page.get_by_text("videos for bob").wait_for()
    assert feed.videos() == first
    assert feed.next() != second
    assert feed.complaints == []


def test_likes_and_skips_are_told(feed: Feed) -> None:
    one, other = feed.videos()[:2]
    feed.page.locator(f"[data-video={one}] .like").click()
    feed.page.locator(f"[data-video={other}] .skip").focus()
    feed.page.keyboard.press("Enter")  # all can be done from the keyboard
    feed.next()
    assert [event[:2] for event in feed.events("ann")] == [("like", one), ("skip", other)]
    assert feed.complaints == []


def test_titles_are_text_not_markup(feed: Feed) -> None:
    title = feed.page.locator("#feed h3").first
    assert (title.text_content() or "").startswith("<b>Clip</b>")
    assert title.locator("b").count() == 0


def test_the_last_page_says_so(feed: Feed) -> None:
    pages = [feed.videos(), *(feed.next() for _ in range(4))]
    assert [len(page) for page in pages] == [12, 12, 12, 4, 0]
    assert "ann has seen every video there is" in (feed.page.text_content("#status") or "")


def test_with_api_keys_the_page_asks_for_one(
    browser: "playwright.Browser", recommender: Recommender, listen: Callable[[FastAPI], httpx.Client]
) -> None:
    client = listen(create_api(lambda: recommender, ["secret"], most_k=100))
    page = browser.new_page()
    page.goto(f"{client.base_url}/?user=ann")
    page.get_by_label("API key").fill("secret")
    page.get_by_role("button", name="Show").click()
    page.get_by_text("12 videos for ann").wait_for()
    # Its file comes as a blob, since a <video> can't send the key.
    Feed(page, recommender, []).play("v30", seconds=0.2)
    page.close()


def test_the_api_page_lists_every_endpoint(feed: Feed) -> None:
    feed.page.goto(feed.page.url.split("?")[0] + "docs")
    feed.page.wait_for_selector(".endpoint")
    titles = feed.page.locator(".endpoint h2").all_text_contents()
    assert {"POST /v1/recommend", "POST /v1/events", "GET /v1/topics", "GET /readyz"} < set(titles)
    assert feed.complaints == []
