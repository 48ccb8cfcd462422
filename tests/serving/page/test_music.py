"""Music for the video in view, in a real browser."""

from typing import TYPE_CHECKING

from rayrec.serving.recommender import Recommender
from tests.serving.music_world import TRACKS, track
from tests.serving.page.feed import PHONE, Feed, Show

if TYPE_CHECKING:
    from playwright.sync_api import Locator


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


def playable(feed: Feed) -> "Locator":
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
