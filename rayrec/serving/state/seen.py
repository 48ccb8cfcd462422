"""What a store keeps of the videos that a user has seen: four bytes for each, in a row for each day (UTC) on which there were any.

The four bytes are a hash of the video's id, so that they mean the same whatever a bundle contains and in which order. Whatever was
seen is found again, always. A video that the user has not seen is taken for seen if it has the hash of one that was: with N videos
seen, that happens to N of 2^32 videos, which is 2.3 of a million where N is 10,000.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from rayrec.serving.state.store import DAY, TAKES_BACK, Event, Exposure

CODE = 4  # bytes
CODES = np.dtype("<u4")


def code(video_id: str) -> bytes:
    """The code of a video, `CODE` bytes."""
    return hashlib.blake2b(video_id.encode(), digest_size=CODE).digest()


def codes(video_ids: Iterable[str]) -> np.ndarray:
    """The code of each video as a number, uint32."""
    return np.frombuffer(b"".join(map(code, video_ids)), CODES)


def with_codes(known: bytes, new: Iterable[bytes]) -> bytes:
    """A day's codes with those of `new`, each once: what was seen last comes last."""
    moved = dict.fromkeys(reversed(list(new)))  # the last one first
    kept = (known[start : start + CODE] for start in range(0, len(known), CODE))
    return b"".join([*(each for each in kept if each not in moved), *reversed(moved)])


def is_seen(event: Event, exposure: Exposure) -> bool:
    """Whether an event says that its user saw its video: a delivery does so only where deliveries count as views."""
    return event.kind not in TAKES_BACK and (event.kind != "impression" or exposure == "impression")


def codes_by_day(events: Iterable[Event], exposure: Exposure) -> dict[tuple[str, int], list[bytes]]:
    """What users saw, by user and day since 1970, in the order of the events."""
    found: dict[tuple[str, int], list[bytes]] = {}
    for event in events:
        if is_seen(event, exposure):
            found.setdefault((event.user_id, event.at // DAY), []).append(code(event.video_id))
    return found


def implied_views(events: Sequence[Event]) -> list[Event]:
    """The views that other events imply: whoever clicked, watched, liked, skipped or shared a video has seen it.

    The id of such a view follows from the request and the video, or, without a request, from the day and the video, so that a store
    keeps it once. There is none for a video whose view is among the events.
    """
    found: dict[tuple[str, str, str | None], Event | None] = {
        (event.user_id, event.video_id, event.request_id): None for event in events if event.kind == "view"
    }
    for event in events:
        if event.kind not in ("view", "impression", *TAKES_BACK):
            key = event.user_id, event.video_id, event.request_id
            found.setdefault(key, Event(_view_id(event), *key[:2], "view", event.at, event.request_id, arm=event.arm))
    return [view for view in found.values() if view]


def _view_id(event: Event) -> str:
    page = event.at // DAY if event.request_id is None else event.request_id
    return "view-" + hashlib.blake2b(f"{page}\n{event.video_id}".encode(), digest_size=16).hexdigest()
