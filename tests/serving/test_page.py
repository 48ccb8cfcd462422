"""The pages in a real browser: the feed plays, reports events and adapts to them; the dashboard shows the service's numbers."""

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from rayrec.config import Serving
from rayrec.serving.attention import Attention, StageAttention
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import Recommender, now_ms
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.rollout.history import Swap
from rayrec.serving.search_query import Found, Search, SearchQuery
from rayrec.serving.state.store import Event
from tests.serving.music_world import TRACKS, track
from tests.serving.rollout.browsing import EXPERIMENT, browse
from tests.serving.small_world import rank_by_last_click, topic_of, video

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the pages are not tested")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: the pages are not tested")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
SWAPS = [Swap(now_ms() - 60_000, "first", None, 0.0, "done"), Swap(now_ms(), "second", None, 0.0, "checksum differs")]
# What the page says in red counts as a complaint of the browser's.
IN_RED = """new MutationObserver(() => {
  const said = document.querySelector("#status.bad")?.textContent;
  if (said) console.error(said);
}).observe(document, { subtree: true, childList: true, attributes: true });"""


def topics_of(videos: list[str]) -> list[int]:
    return [topic_of(int(each[1:])) for each in videos]


def expose(recommender: Recommender, user: str, count: int) -> None:
    """Show a user the first videos there are."""
    recommender.store.add_events([Event(f"{user}-{n}", user, video(n), "impression", now_ms()) for n in range(count)])


@dataclass
class Feed:
    """A page, and what the browser complained of."""

    page: "playwright.Page"
    recommender: Recommender
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        self.page.add_init_script(IN_RED)
        self.page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda problem: self.complaints.append(str(problem)))
        at_home = (path.split("/", 3)[2], "blob:")
        self.page.on("request", lambda request: None if at_home[0] in request.url else self.complaints.append(request.url))
        self.page.goto(path)

    def videos(self) -> list[str]:
        """Those of the feed, once nothing is being asked for."""
        self.page.wait_for_selector("#feed[aria-busy=false] > .slide", state="attached")
        return self.page.locator("#feed > .slide:not(.end)").evaluate_all("slides => slides.map(slide => slide.dataset.video)")

    def current(self) -> str:
        """The video in view, the only one that is not inert."""
        return self.page.locator("#feed > .slide:not([inert])").get_attribute("data-video") or ""

    def ahead(self) -> list[str]:
        return self.videos()[self.videos().index(self.current()) + 1 :]

    def move(self, key: str) -> str:
        """The video in view after a key that leaves the one before it."""
        before = self.current()
        self.page.keyboard.press(key)
        self.page.wait_for_selector(f"#feed > .slide:not([inert]):not([data-video={before}])")
        return self.current()

    def move_to_clip(self) -> str:
        """The next video that has a file."""
        while not self.page.locator("#feed > .slide:not([inert]) video").count():
            self.move("j")
        return self.current()

    def wait_for_clip(self, seconds: float) -> None:
        clip = "document.querySelector('.slide:not([inert]) video')"
        self.page.wait_for_function(f"() => !{clip}.paused && {clip}.currentTime > {seconds}")

    def events(self, user: str, kind: str, video_id: str) -> list[tuple[str, str, float | None]]:
        """What the store holds of a user but impressions, once an event is there."""
        for _ in range(200):
            stored = [row for piece in self.recommender.store.read(0, None) for row in piece.to_pylist() if row["user_id"] == user]
            told = [(row["kind"], row["video_id"], row["watch_s"]) for row in stored if row["kind"] != "impression"]
            if (kind, video_id) in [each[:2] for each in told]:
                return told
            self.page.wait_for_timeout(50)
        raise AssertionError(f"no {kind} of {video_id}, only {told}")

    def weights(self) -> dict[str, str]:
        rows = self.page.locator("#weights li")
        return dict(zip(rows.locator(".words").all_text_contents(), rows.locator(".share").all_text_contents(), strict=True))


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


Show = Callable[..., Feed]


@pytest.fixture
def show(browser: "playwright.Browser", recommender: Recommender, listen: Callable[[FastAPI], httpx.Client]) -> Iterator[Show]:
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

    yield start
    for feed in opened:
        feed.page.close()
        assert feed.complaints == []


def test_a_clip_plays_muted_and_what_was_watched_is_told(show: Show) -> None:
    feed = show("/?user=ann")
    assert len(feed.videos()) == 4
    video_id = feed.move_to_clip()
    feed.wait_for_clip(1.2)  # of 2 s: past the half, it counts as a click
    clip = feed.page.locator(".slide:not([inert]) video")
    assert clip.evaluate("clip => clip.muted")
    feed.page.locator(".slide:not([inert]) .tap").click()
    assert not clip.evaluate("clip => clip.muted")
    feed.page.mouse.wheel(0, 500)  # the column snaps to the next one
    feed.page.wait_for_selector(f"#feed > .slide:not([inert]):not([data-video={video_id}])")
    click, watch = feed.events("ann", "watch", video_id)
    assert click == ("click", video_id, None)
    assert watch[:2] == ("watch", video_id)
    assert 1.1 < (watch[2] or 0) < 20
    assert len(feed.videos()) > 4  # the feed goes on by itself


def test_what_follows_a_like_is_like_it_and_the_topics_move(show: Show) -> None:
    feed = show("/?user=ann")
    first = feed.videos()
    assert feed.page.locator("#no-weights").is_visible()
    liked = feed.current()
    feed.page.locator(".slide:not([inert]) .like").click()
    feed.page.wait_for_function("() => document.querySelectorAll('#feed > .slide').length >= 8")
    assert topics_of(feed.ahead())[:4] == topics_of([liked]) * 4  # before those that were waiting
    assert feed.ahead()[4:] == first[1:]
    feed.page.wait_for_selector("#weights li .bar[aria-valuenow='100']")
    words = list(feed.weights())
    assert [event[:2] for event in feed.events("ann", "like", liked)] == [("click", liked), ("like", liked)]

    # A like of another topic takes half of the weight.
    while topics_of([feed.current()]) == topics_of([liked]):
        feed.move("ArrowDown")
    feed.page.keyboard.press("l")
    feed.page.wait_for_selector("#weights li:nth-child(2) .bar[aria-valuenow='50']")
    assert set(feed.weights().values()) == {"50 %"}
    assert set(words) < set(feed.weights())
    assert "50 %" in (feed.page.text_content("#weights-announced") or "")  # for those who don't see the bars


def test_a_skip_moves_on(show: Show) -> None:
    feed = show("/?user=ann")
    feed.videos()
    skipped = feed.current()
    feed.page.locator(".slide:not([inert]) .skip").click()
    feed.page.wait_for_selector(f"#feed > .slide:not([inert]):not([data-video={skipped}])")
    feed.events("ann", "skip", skipped)
    assert feed.page.locator(f"[data-video={skipped}].skipped").count() == 1


def test_an_event_that_is_refused_is_said(show: Show) -> None:
    feed = show("/?user=ann")
    feed.videos()
    answer = {"received": 1, "new": 0, "refused": [{"event_id": "e", "error": "there is no such video"}]}
    feed.page.route("**/v1/events", lambda route: route.fulfill(json=answer))
    with feed.page.expect_console_message(lambda message: message.text == "there is no such video"):
        feed.page.keyboard.press("l")
    feed.page.close()
    assert set(feed.complaints) == {"there is no such video"}
    feed.complaints.clear()


def test_everything_from_the_keyboard(show: Show) -> None:
    feed = show("/?user=ann")
    first = feed.videos()[0]
    second = feed.move("ArrowDown")
    assert feed.page.evaluate("document.activeElement.dataset.video") == second  # so that Tab goes on from there
    assert feed.move("k") == first
    feed.page.keyboard.press("w")
    assert feed.page.get_by_text("Probability that you click it").locator("visible=true").count() == 1
    assert feed.page.locator(".slide:not([inert]) .why").get_attribute("aria-expanded") == "true"
    feed.move("s")
    assert feed.page.locator("[data-video].skipped").get_attribute("data-video") == first
    liked = feed.current()
    for _ in range(3):  # the clip, why this, like
        feed.page.keyboard.press("Tab")
    feed.page.keyboard.press("Enter")
    feed.events("ann", "like", liked)
    feed.page.get_by_text("Keys", exact=True).click()
    feed.page.get_by_label("Enable single-letter keys").uncheck()
    feed.page.keyboard.press("j")
    feed.page.wait_for_timeout(300)
    assert feed.current() == liked


async def look_right(user_id: str, item: int) -> Attention | str:
    """Most of the attention of ann is at the upper right; of bob nothing is known."""
    if user_id == "bob":
        return "the video has no feature maps of its cover"
    places = [0.0] * 16
    places[3], places[12] = 0.75, 0.25
    return Attention(4, 0.9, user_id == "ann", [StageAttention(3, -0.2, places)])


def brightness(feed: Feed) -> list[list[float]]:
    """How much of the cover is left to be seen in each quarter, 0 to 1, as the canvas over it says."""
    measure = """canvas => [0, 1].map(y => [0, 1].map(x => {
      const [w, h] = [canvas.width / 2, canvas.height / 2];
      const pixels = canvas.getContext("2d").getImageData(x * w, y * h, w, h).data;
      return 1 - pixels.filter((_, place) => place % 4 === 3).reduce((sum, alpha) => sum + alpha, 0) / (255 * w * h);
    }))"""
    return feed.page.locator(".slide:not([inert]) .places").evaluate(measure)


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_where_the_user_looks_is_shown_on_the_cover(show: Show, recommender: Recommender, size: dict[str, int]) -> None:
    recommender.look = look_right
    feed = show("/?user=ann", size)
    picture = io.BytesIO()
    Image.new("RGB", (60, 80), (40, 160, 90)).save(picture, "JPEG")
    feed.page.route("**/cover", lambda route: route.fulfill(body=picture.getvalue(), content_type="image/jpeg"))
    feed.page.reload()
    feed.videos()
    feed.move_to_clip()
    slide, words = feed.page.locator(".slide:not([inert])"), "You look most at the upper right (75 % of your attention)."
    button = slide.get_by_role("button", name="Where you look")
    feed.page.keyboard.press("w")
    button.press("Enter")
    slide.locator(".looks").get_by_text(words).wait_for()
    assert slide.locator(".reasons").is_hidden()  # which would cover the picture
    assert feed.page.evaluate("document.activeElement.classList.contains('why')")
    assert slide.locator("video").evaluate("clip => clip.paused")
    canvas, cover = slide.locator(".places"), slide.locator(".cover")
    assert canvas.bounding_box() == cover.bounding_box()
    assert canvas.evaluate("canvas => [canvas.width, canvas.height]") == [60, 80]
    (upper_left, upper_right), (lower_left, lower_right) = brightness(feed)
    assert upper_right > lower_left > max(upper_left, lower_right)
    feed.page.keyboard.press("w")
    button.press("Enter")
    slide.locator(".looks").wait_for(state="hidden")
    assert "looking" not in (slide.get_attribute("class") or "")


def test_where_nothing_is_known_of_the_look_there_is_no_button(show: Show, recommender: Recommender) -> None:
    recommender.look = look_right
    feed = show("/?user=bob")
    feed.videos()
    feed.move_to_clip()
    with feed.page.expect_response("**/attention?user_id=bob"):
        feed.page.keyboard.press("w")
    feed.page.get_by_text("Probability that you click it").locator("visible=true").wait_for()
    assert feed.page.get_by_role("button", name="Where you look").count() == 0


def test_another_user_gets_another_feed(show: Show) -> None:
    feed = show("/?user=ann")
    first = feed.videos()
    feed.page.keyboard.press("l")
    feed.page.wait_for_function("() => document.querySelectorAll('#feed > .slide').length >= 8")
    feed.page.get_by_label("User", exact=True).fill("bob")
    feed.page.get_by_role("button", name="Switch").click()
    feed.page.wait_for_function("() => document.querySelectorAll('#feed > .slide').length == 4")
    assert feed.videos() == first  # nothing is known of either
    assert feed.weights() == {}
    known = feed.page.locator("#users button").all_text_contents()
    assert len(known) == 5  # of the log
    feed.page.locator("#users button").first.click()
    feed.page.wait_for_selector("#weights li")
    assert f"user={known[0]}" in feed.page.url
    assert feed.page.locator("#users [aria-pressed=true]").all_text_contents() == known[:1]


def test_on_a_phone_the_side_view_is_a_drawer(show: Show) -> None:
    feed = show("/?user=u1", PHONE)
    feed.videos()
    assert not feed.page.locator("#weights").is_visible()
    assert feed.page.locator(".card").first.bounding_box() == {"x": 0, "y": 0, **PHONE}
    feed.page.get_by_role("button", name="Your topics").click()
    feed.page.locator("#weights li").first.wait_for()
    assert feed.page.evaluate("document.activeElement.id") == "close-panel"
    assert feed.page.evaluate("document.getElementById('stage').inert")
    feed.page.keyboard.press("Escape")
    feed.page.locator("#weights").wait_for(state="hidden")
    assert feed.page.evaluate("document.activeElement.id") == "open-panel"


def test_whoever_wants_no_motion_gets_no_autoplay(show: Show) -> None:
    feed = show("/?user=ann", reduced_motion="reduce")
    feed.videos()
    feed.move_to_clip()
    feed.page.wait_for_timeout(200)
    clip = feed.page.locator(".slide:not([inert]) video")
    assert clip.evaluate("clip => clip.paused")
    feed.page.keyboard.press("Space")
    feed.wait_for_clip(0.1)


def test_titles_are_text_not_markup(show: Show) -> None:
    feed = show("/?user=ann")
    feed.videos()
    title = feed.page.locator("#feed h2").first
    assert (title.text_content() or "").startswith("<b>Clip</b>")
    assert title.locator("b").count() == 0


def test_the_end_says_so(show: Show, recommender: Recommender) -> None:
    expose(recommender, "ann", 38)
    feed = show("/?user=ann")
    assert len(feed.videos()) == 2
    feed.move("j")
    feed.page.keyboard.press("j")
    feed.page.get_by_text("ann has seen every video in the catalog").wait_for()
    feed.page.wait_for_selector(".end:not([inert])")


def test_with_api_keys_the_page_asks_for_one(show: Show) -> None:
    feed = show("/?user=ann", keys=("secret",))
    for key in ("wrong", "secret"):
        feed.page.get_by_label("API key", exact=True).fill(key)
        feed.page.get_by_role("button", name="Continue").click()
    feed.videos()
    feed.move_to_clip()
    feed.wait_for_clip(0.2)  # its file comes as a blob, since a <video> can't send the key
    assert feed.page.locator(".slide:not([inert]) video").evaluate("clip => clip.src").startswith("blob:")
    assert all("401" in complaint for complaint in feed.complaints)
    feed.complaints.clear()


def test_events_reach_the_store_when_the_page_is_left(show: Show) -> None:
    feed = show("/?user=ann")
    feed.videos()
    video_id = feed.move_to_clip()
    feed.wait_for_clip(0.4)
    feed.page.goto("about:blank")
    feed.events("ann", "watch", video_id)


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


async def find(version: str, query: SearchQuery) -> Found:
    """Words find the videos whose number they are, a picture three videos, a sound nothing."""
    numbers = {"text": [n for n in range(40) if str(n) in str(query.content).split()], "picture": [0, 2, 4], "sound": []}
    ids = [video(n) for n in numbers[query.kind]]
    return Found(ids, [0.9 - n / 100 for n in range(len(ids))], ["guitar", "song"], 0.3)


def found(feed: Feed) -> list[str]:
    feed.page.wait_for_selector("#found:not([hidden])")
    return feed.page.locator("#found-list button").evaluate_all("all => all.map(each => each.dataset.video)")


def test_words_are_searched_for_and_a_result_joins_the_feed(show: Show) -> None:
    feed = show("/?user=ann", search=find)
    feed.videos()
    before = feed.current()
    page = feed.page
    page.keyboard.press("f")
    assert page.evaluate("document.activeElement.id") == "words"
    page.keyboard.type("7 3")
    page.keyboard.press("Enter")
    assert found(feed) == ["v3", "v7"]
    assert page.locator("#found-title").text_content() == "Found for “7 3”"
    assert page.locator("#found-tags").text_content() == "Near to it: #guitar #song"
    assert page.evaluate("document.activeElement.id") == "found-title"
    page.keyboard.press("ArrowDown")  # the feed under the results stays where it is
    assert feed.current() == before
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the second result, by keyboard alone
    page.wait_for_selector("#feed > .slide:not([inert])[data-video=v7]")
    assert page.locator("#found").is_hidden()
    assert page.locator(".slide:not([inert]) .why-text").text_content() == "Found for “7 3”"
    page.locator(".slide:not([inert]) .like").click()
    assert ("like", "v7", None) in feed.events("ann", "like", "v7")


def test_a_picture_or_a_sound_is_chosen_or_dropped(show: Show) -> None:
    feed = show("/?user=ann", search=find)
    feed.videos()
    page, picture = feed.page, {"name": "sea.png", "mimeType": "image/png", "buffer": b"a picture"}
    page.locator("#medium").set_input_files(picture)
    assert found(feed) == ["v0", "v2", "v4"]
    page.keyboard.press("Escape")
    assert page.locator("#found").is_hidden()
    assert page.evaluate("document.activeElement.id") == "words"
    drop = """kind => {
      const data = new DataTransfer();
      data.items.add(new File(["a"], "a.file", { type: kind }));
      const options = { dataTransfer: data, bubbles: true, cancelable: true };
      for (const name of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(name, options));
    }"""
    page.evaluate(drop, "audio/mpeg")
    assert found(feed) == []
    assert page.locator("#found-title").text_content() == "Nothing like “a.file” is here"
    page.evaluate(drop, "text/plain")
    page.wait_for_function(
        "() => document.querySelector('#found-title').textContent === 'Only pictures and sounds can be searched by'"
    )


def test_the_search_fits_a_phone_and_sends_the_key(show: Show) -> None:
    feed = show("/?user=ann", PHONE, keys=("secret",), search=find)
    page = feed.page
    page.get_by_label("API key", exact=True).fill("secret")
    page.get_by_role("button", name="Continue").click()
    feed.videos()
    page.locator("#words").fill("2 4")
    page.locator("#search button[aria-label=Search]").click()
    assert found(feed) == ["v2", "v4"]
    page.wait_for_function("() => [...document.querySelectorAll('#found-list img')].every(each => each.src.startsWith('blob:'))")
    width, box = PHONE["width"], page.locator("#found").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#close-found").click()
    assert page.locator("#found").is_hidden()
    assert all("401" in complaint for complaint in feed.complaints)
    feed.complaints.clear()


def music(feed: Feed) -> list[str]:
    """The tracks that are listed for the video in view, once they are."""
    feed.page.wait_for_selector("#music:not([hidden]) #music-list[aria-busy=false] .track")
    return feed.page.locator("#music-list .track").evaluate_all("all => all.map(each => each.dataset.track)")


def expected_music(feed: Feed, user: str) -> list[str]:
    found, item = feed.recommender.bundle.music, feed.recommender.items.find(feed.current())
    assert found is not None
    return [facts["track_id"] for facts in found.facts_of(found.best(user, found.place_of(item), 5).rows)]


def wait_for_song(feed: Feed, seconds: float) -> None:
    feed.page.wait_for_function(f"() => !song.paused && song.currentTime > {seconds}")


def playable(feed: Feed) -> "playwright.Locator":
    """The first track that is listed whose file is on this machine."""
    return feed.page.locator(", ".join(f"#music-list [data-track='{track(n)}']" for n in (0, 1, *range(6, TRACKS)))).first


def test_music_for_the_video_plays_and_the_clip_is_silent_meanwhile(show: Show, musical: Recommender) -> None:
    feed = show("/?user=u3", serves=musical)
    feed.videos()
    first = feed.move_to_clip()
    assert music(feed) == expected_music(feed, "u3")
    titles = feed.page.locator("#music-list .what").all_text_contents()
    assert all(title.startswith("<i>Tune</i>") for title in titles)  # text, not markup
    feed.page.keyboard.press("m")
    clip = feed.page.locator(".slide:not([inert]) video")
    assert not clip.evaluate("clip => clip.muted")
    button = playable(feed)
    button.click()
    wait_for_song(feed, 0.3)
    assert button.get_attribute("aria-pressed") == "true"
    assert clip.evaluate("clip => clip.muted")
    button.click()
    assert feed.page.evaluate("song.paused")
    assert button.get_attribute("aria-pressed") == "false"
    assert not clip.evaluate("clip => clip.muted")  # as it was before
    button.click()
    wait_for_song(feed, 0.1)
    feed.page.keyboard.press("m")  # the clip's own sound instead
    assert feed.page.evaluate("song.paused")
    button.click()
    wait_for_song(feed, 0.1)
    feed.move("j")
    assert feed.page.evaluate("song.paused")  # it was for the other video
    assert feed.current() != first
    feed.page.wait_for_function("() => !document.querySelector('#music-list [aria-pressed=true]')")
    assert music(feed) == expected_music(feed, "u3")


def test_music_follows_the_user_and_is_hidden_where_there_is_none(show: Show, musical: Recommender) -> None:
    feed = show("/?user=u3", serves=musical)
    feed.videos()
    assert music(feed) == expected_music(feed, "u3")
    feed.page.get_by_label("User", exact=True).fill("stranger")
    feed.page.get_by_role("button", name="Switch").click()
    feed.page.wait_for_function("() => document.querySelectorAll('#feed > .slide').length == 4")
    feed.videos()
    assert music(feed) == expected_music(feed, "")
    bare = show("/?user=u3")
    bare.videos()
    bare.page.wait_for_selector("#users button")
    assert bare.page.locator("#music").is_hidden()
    assert bare.page.locator(".rail .music").locator("visible=true").count() == 0


def test_a_track_that_can_not_be_played_says_so(show: Show, musical: Recommender) -> None:
    feed = show("/?user=u3", serves=musical)
    feed.videos()
    music(feed)
    feed.page.route("**/v1/tracks/**", lambda route: route.fulfill(status=200, content_type="audio/wav", body="no sound"))
    button = playable(feed)
    button.click()
    button.get_by_text("This track can't be played here.").wait_for()
    assert button.is_disabled()
    assert button.get_attribute("aria-pressed") == "false"


def test_on_a_phone_music_is_in_the_drawer_and_sends_the_key(show: Show, musical: Recommender) -> None:
    feed = show("/?user=u3", PHONE, keys=("secret",), serves=musical)
    page = feed.page
    page.get_by_label("API key", exact=True).fill("secret")
    page.get_by_role("button", name="Continue").click()
    feed.videos()
    assert not page.locator("#music").is_visible()
    page.locator(".slide:not([inert]) .music").click()
    assert music(feed) == expected_music(feed, "u3")
    assert page.evaluate("document.activeElement.id") == "music-title"
    page.evaluate("Promise.all(document.getElementById('panel').getAnimations().map(each => each.finished))")
    box = page.locator("#music-list").bounding_box()
    assert box is not None
    assert 0 <= box["x"] < box["x"] + box["width"] <= PHONE["width"]
    assert box["y"] + box["height"] <= PHONE["height"]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    playable(feed).click()
    wait_for_song(feed, 0.2)
    assert page.evaluate("song.src").startswith("blob:")  # since an <audio> can't send the key
    page.keyboard.press("Escape")
    assert not page.evaluate("song.paused")  # it goes with the clip, which the drawer no longer hides
    assert all("401" in complaint for complaint in feed.complaints)
    feed.complaints.clear()
