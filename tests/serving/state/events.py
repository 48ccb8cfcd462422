"""Events for the tests of the stores, and what a store makes of them."""

from rayrec.serving.state.seen import code
from rayrec.serving.state.store import Event, Since, StateStore

ALL = Since()
HOUR = 3_600_000


def event(number: int, kind: str = "click", user: str = "ann", video: str | None = None, at: int | None = None) -> Event:
    return Event(f"e{number}", user, video or f"v{number}", kind, at=1000 + number if at is None else at)


def clicked(store: StateStore, user: str = "ann", since: Since = ALL) -> list[str]:
    return store.activity(user, since, 10, 0, 0).clicked


def codes(*videos: str) -> bytes:
    """What a store keeps of a user who has seen these videos in this order, on one day."""
    return b"".join(map(code, videos))


def counted(store: StateStore, after: int = 0, since: Since = ALL) -> dict[str, tuple[int, int]]:
    _, videos, exposures, clicks = store.counts(after, since)
    return dict(zip(videos, zip(exposures.tolist(), clicks.tolist(), strict=True), strict=True))


def kept(store: StateStore) -> list[Event]:
    """All events, in the order of arrival."""
    return [Event(**row) for piece in store.read(1, None) for row in piece.to_pylist()]
