"""A browser that opens the pages of a recommender; without Chromium and Playwright, the pages are not tested."""

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi import FastAPI

from rayrec.config import Serving
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import Recommender, now_ms
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.rollout.history import Swap
from rayrec.serving.search_query import Search
from tests.interfaces import unchanged
from tests.serving.page.feed import DESK, Feed, Show
from tests.serving.small_world import rank_by_last_click

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
SWAPS = [Swap(now_ms() - 60_000, "first", None, 0.0, "done"), Swap(now_ms(), "second", None, 0.0, "checksum differs")]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the pages are not tested")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: the pages are not tested")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def show(browser: "Browser", recommender: Recommender, listen: Callable[[FastAPI], httpx.Client]) -> Iterator[Show]:
    """Open a page of the service; when the test ends, the browser must have had nothing to complain of."""
    recommender.rank = rank_by_last_click
    opened: list[Feed] = []

    def start(
        path: str,
        size: dict[str, int] = DESK,
        keys: tuple[str, ...] = (),
        search: Search | None = None,
        serves: Recommender = recommender,
        serving: Serving = Serving(),  # noqa: B008
        **settings: str,
    ) -> Feed:
        api = create_api(lambda: Arms(serves), serving, Keys(keys), LocalMetrics(), lambda: SWAPS, ask=search)
        feed = Feed(browser.new_page(viewport=size, **settings), serves)
        feed.page.set_default_timeout(10_000)
        opened.append(feed)
        feed.open(f"{listen(api).base_url}{path}")
        return feed

    with unchanged():
        yield start
        for feed in opened:
            feed.page.close()
    for feed in opened:
        assert feed.complaints == []
