"""A page of the service in a real browser, as the tests see it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rayrec.serving.recommender import Recommender, now_ms
from rayrec.serving.state.store import Event
from tests.serving.small_world import topic_of, video

if TYPE_CHECKING:
    from playwright.sync_api import Page

DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
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

    page: "Page"
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
        """What the store holds of a user but deliveries and views, once an event is there."""
        for _ in range(200):
            stored = [row for piece in self.recommender.store.read(0, None) for row in piece.to_pylist() if row["user_id"] == user]
            told = [(row["kind"], row["video_id"], row["watch_s"]) for row in stored if row["kind"] not in ("impression", "view")]
            if (kind, video_id) in [each[:2] for each in told]:
                return told
            self.page.wait_for_timeout(50)
        raise AssertionError(f"no {kind} of {video_id}, only {told}")

    def weights(self) -> dict[str, str]:
        rows = self.page.locator("#weights li")
        return dict(zip(rows.locator(".words").all_text_contents(), rows.locator(".share").all_text_contents(), strict=True))


Show = Callable[..., Feed]
