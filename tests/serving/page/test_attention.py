"""Where a user looks is shown over the cover, in a real browser."""

import io

import pytest
from PIL import Image

from rayrec.serving.attention import Attention, StageAttention
from rayrec.serving.recommender import Recommender
from tests.serving.page.feed import DESK, PHONE, Feed, Show


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
