"""How events go to Redis and come back: what the scripts of `redis_scripts.py` need to know of them, and the JSON that is kept."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from rayrec.serving.state.seen import code, is_seen
from rayrec.serving.state.store import DAY, KINDS, MINUTE, Event, Exposure

# Each kind of event has a letter of its own in the keys, and all kinds that are not rayrec's own share one.
LETTERS: dict[str, str] = {**{kind: kind[0] for kind in KINDS}, "less_topic": "t", "less_author": "a", "undo": "x"}
OWN = "o"

OLD_FIELDS = 9  # the values of an event up to version 3


def event_keys(event: Event) -> tuple[Any, ...]:
    """What the scripts need to find an event's keys.

    A digest of its id, the user, the video, the kind's letter, the time, its minute and day since 1970, and a digest of what counts
    once a day.
    """
    id, user, video, kind, at = event[:5]
    return _digest(user, id), user, video, LETTERS.get(kind, OWN), at, at // MINUTE, at // DAY, _digest(kind, video, user)


def _digest(*texts: str) -> str:
    return hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).hexdigest()


def add_arguments(events: Sequence[Event], exposure: Exposure) -> list[Any]:
    """The arguments of the script that adds events. Raises `ValueError` if an event lacks a required field."""
    for event in events:
        for name, value in zip(Event._fields[:5], event, strict=False):
            if value is None:
                raise ValueError(f"event {event.event_id!r} has no {name}")
    return [
        argument
        for event in events
        for argument in (
            *event_keys(event),
            code(event.video_id) if is_seen(event, exposure) else "",
            json.dumps(event, separators=(",", ":")),
        )
    ]


def read_event(values: list[Any]) -> tuple[Event, bool]:
    """An event as it is kept, and whether it is a repeat."""
    repeated = values[-1] is True or (len(values) <= OLD_FIELDS + 1 and values[-1] == 1)
    return Event(*(values[:-1] if repeated else values)), repeated
