"""The search of the feed in a real browser."""

from rayrec.serving.search_query import Found, SearchQuery
from tests.serving.page.feed import PHONE, Feed, Show
from tests.serving.small_world import video


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
