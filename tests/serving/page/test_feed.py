"""The feed in a real browser: it plays, reports events and adapts to them."""

from rayrec.serving.recommender import Recommender, now_ms
from tests.serving.page.feed import PHONE, Show, expose, topics_of


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


def test_what_was_seen_comes_again_where_nothing_else_is_left(show: Show, recommender: Recommender) -> None:
    expose(recommender, "ann", 38)
    feed = show("/?user=ann")
    assert feed.videos()[2:] == ["v0", "v1"]
    for _ in "12":
        feed.move("j")
    assert feed.page.locator(".slide:not([inert]) .why-text").text_content() == "again"
    feed.page.keyboard.press("w")
    feed.page.get_by_text("You have seen everything else, and this video longest ago.").locator("visible=true").wait_for()
    assert len(feed.videos()) > 4  # the feed goes on


def test_the_end_says_so(show: Show, recommender: Recommender) -> None:
    for number in range(40):
        recommender.store.withdraw(f"v{number}", True)
    recommender.refresh(now_ms())
    feed = show("/?user=ann")
    feed.page.get_by_text("There is no video that may be shown now.").wait_for()
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
