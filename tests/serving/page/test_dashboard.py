"""The dashboard and the page of the API in a real browser: they show the service's numbers and endpoints."""

from dataclasses import replace

import numpy as np
import pytest

from rayrec.config import Serving
from rayrec.serving.recommender import Recommender
from tests.serving.page.feed import DESK, PHONE, Show, expose
from tests.serving.rollout.browsing import EXPERIMENT, browse


def test_the_dashboard_shows_queues_clicks_and_swaps_and_follows(show: Show, recommender: Recommender) -> None:
    expose(recommender, "ann", 10)
    feed = show("/dashboard")
    assert feed.page.locator("#day dd").nth(1).text_content() == "10"
    assert "0.0 %" in (feed.page.locator("#chart svg").get_attribute("aria-label") or "")
    assert feed.page.locator("#arms b").all_text_contents() == ["stable"]
    assert feed.page.locator("#swaps code").all_text_contents() == ["second", "first"]
    assert feed.page.locator(".outcome.bad").all_text_contents() == ["checksum differs"]
    assert feed.page.locator(".queue").count() == 4
    feed.page.get_by_label("Find a topic").fill("guitar")
    assert [text.split(",")[0] for text in feed.page.locator(".queue h3").all_text_contents()] == ["guitar"]
    expose(recommender, "bob", 7)
    feed.page.locator("#day").get_by_text("17", exact=True).wait_for()


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_the_dashboard_shows_experiments(show: Show, recommender: Recommender, size: dict[str, int]) -> None:
    recommender.store.add_events(browse(np.random.default_rng(4), 500, better=0.8))
    page = show("/dashboard", size, serving=Serving(experiments={"fresh": EXPERIMENT})).page
    page.wait_for_selector(".experiment tbody tr")
    assert page.locator(".experiment tbody th").all_text_contents() == ["control", "more"]
    assert page.locator(".experiment tbody tr").nth(1).locator(".decided").count() == 3
    assert "to +" in (page.locator(".experiment small").nth(1).text_content() or "")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # a wide table scrolls by itself


def test_without_experiments_the_dashboard_does_not_speak_of_any(show: Show) -> None:
    page = show("/dashboard").page
    page.wait_for_selector(".queue")
    assert page.locator("#experiments:visible").count() == 0


def test_a_metric_that_is_not_defined_leaves_the_dashboard_full(show: Show, recommender: Recommender) -> None:
    info = replace(recommender.bundle.info, metrics={"auc": 0.7, "gauc": None, "candidate_recall": 1.0})
    recommender.bundle = replace(recommender.bundle, info=info)
    page = show("/dashboard").page
    page.wait_for_selector("#metrics dd")
    assert page.locator("#metrics dt").all_text_contents() == ["AUC", "GAUC", "candidate recall"]
    assert page.locator("#metrics dd").all_text_contents() == ["0.7000", "-", "1"]
    assert page.locator(".queue").count() == 4


@pytest.mark.parametrize(("ranker", "reason"), [(True, "had not measured this ranker"), (False, "the bundle has no ranker")])
def test_the_dashboard_says_why_there_are_no_metrics(show: Show, recommender: Recommender, ranker: bool, reason: str) -> None:
    info = replace(recommender.bundle.info, metrics={}, has_ranker=ranker)
    recommender.bundle = replace(recommender.bundle, info=info)
    page = show("/dashboard").page
    page.wait_for_selector(".queue")
    said = page.locator("#no-metrics:visible, #no-ranker:visible").all_text_contents()
    assert len(said) == 1
    assert reason in said[0]


def test_a_chart_has_true_labels_and_no_bar_of_negative_size(show: Show) -> None:
    page = show("/dashboard").page
    script = page.locator("script[type=module]").first.evaluate("script => script.src.replace('dashboard', 'chart')")
    draw = """async ([script, ctr, width, height]) => {
        const { chart } = await import(script);
        const drawn = chart([{ at: Date.now() - 3_600_000, impressions: 1000, clicks: 1000 * ctr }], Date.now(), width, height);
        const bars = [...drawn.querySelectorAll("rect")];
        const sizes = bars.flatMap((bar) => [bar.getAttribute("width"), bar.getAttribute("height")]);
        return [[...drawn.querySelectorAll("text[text-anchor=end]")].map((each) => each.textContent), sizes.map(Number)];
    }"""
    for percent in (0.5, 2, 3, 7, 9, 10, 11, 15, 30, 45, 70, 100):
        labels, _ = page.evaluate(draw, [script, percent / 100, 600, 300])
        values = [float(label.removesuffix(" %")) for label in labels]
        assert values == pytest.approx([values[-1] * line / 4 for line in range(5)]), labels
        assert values[-1] >= percent
    for width, height in ((0, 0), (30, 10), (60, 400), (2000, 40)):
        _, sizes = page.evaluate(draw, [script, 0.1, width, height])
        assert min(sizes) >= 0, (width, height)


def test_the_api_page_lists_every_endpoint(show: Show) -> None:
    feed = show("/docs")
    feed.page.wait_for_selector(".endpoint")
    titles = feed.page.locator(".endpoint h2").all_text_contents()
    assert {"POST /v1/recommend", "POST /v1/events", "GET /v1/topics", "GET /v1/dashboard", "GET /readyz"} < set(titles)
