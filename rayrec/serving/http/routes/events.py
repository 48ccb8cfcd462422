"""What users did with the videos that they were shown."""

from collections import Counter

import numpy as np
from fastapi import APIRouter
from starlette.exceptions import HTTPException

from rayrec.config import Serving
from rayrec.datasets.times import DAY_MS, other_unit
from rayrec.errors import did_you_mean
from rayrec.serving.http.backend import Backend
from rayrec.serving.http.bodies import EventIn, EventsRequest
from rayrec.serving.http.schemas import EventsAnswer, Refused
from rayrec.serving.recommender import now_ms
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.state.store import KINDS, Event

MAX_AHEAD_MS = 5 * 60 * 1000  # how far the clock of a caller may be ahead of ours


def create_router(backend: Backend) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/events", summary="Record what users did with the videos that they were shown")
    async def events(request: EventsRequest) -> EventsAnswer:
        """Records what users did and said. By the time of the answer, all events of the batch are on the disk.

        Wishes are about the event's video and hold from the user's next page on: `not_interested` asks for fewer videos like it,
        `less_topic` and `less_author` for fewer on its nearest topic or of its author, and `block_author` for none of its author.
        `unblock_author` takes back the blocks of its author, and `undo` all that the user said of the video before, also by a like
        or a skip.

        Whoever does anything else with a video has seen it, so that such an event need not come with a view. An event counts once,
        however often a user's event_id is sent: `duplicates` lists those that were there already. Events of
        unknown videos, watch events without `watch_s`, events in the future, and events that would be deleted at once, because they
        are older than `serving.retention_days`, are listed in `refused`; all others are kept. If no event of a batch can be kept,
        the answer is a 422.
        """
        arms, now = backend.arms(), now_ms()
        accepted, refused = [], []
        for event in request.events:
            if problem := _problem(event, arms, now, backend.serving):
                refused.append(Refused(event_id=event.event_id, error=problem))
            else:
                accepted.append(Event(**event.model_dump(exclude={"at"}), at=now if event.at is None else event.at))
        if not accepted:
            raise HTTPException(422, f"events.0: {refused[0].error}")
        known = await arms.stable.add_events(accepted)
        for kind, count in Counter(event.kind for event in accepted).items():
            backend.metrics.count("events_total", count, kind=kind)
        if refused:
            backend.metrics.count("events_total", len(refused), kind="refused")
        if known:
            backend.metrics.count("events_total", len(known), kind="duplicate")
        duplicates = [event.event_id for event in known]
        return EventsAnswer(received=len(request.events), new=len(accepted) - len(known), duplicates=duplicates, refused=refused)

    return router


def _problem(event: EventIn, arms: Arms, now: int, serving: Serving) -> str:
    """Why an event can't be kept, or "" if it can."""
    known, retention_days = [*KINDS, *serving.event_kinds], serving.retention_days
    if event.kind not in known:
        return f"kind: there is no kind {event.kind!r}{did_you_mean(event.kind, known)}; serving.event_kinds has those of your own"
    found = [(recommender.items, item) for recommender in arms.named().values() if (item := recommender.items.find(event.video_id))]
    if not found:
        return f"there is no video {event.video_id!r}"
    if event.kind in ("less_author", "block_author", "unblock_author") and not any(items.author_of[item] for items, item in found):
        return f"{event.kind}: the author of video {event.video_id!r} is not known"
    if event.kind == "less_topic" and not any(len(items.topics.of_items(np.array([item]))) for items, item in found):
        return f"less_topic: video {event.video_id!r} has no topic"
    if event.kind == "watch" and event.watch_s is None:
        return "a watch event needs watch_s"
    if event.at is not None and event.at > now + MAX_AHEAD_MS:
        return f"at: {event.at} is in the future; the time is {now} now (UTC milliseconds){other_unit(event.at)}"
    if event.at is not None and event.at < now - retention_days * DAY_MS:
        old = f"more than {retention_days:g} days ago, and serving.retention_days deletes it"
        return f"at: {event.at} is {old}; the time is {now} now (UTC milliseconds){other_unit(event.at)}"
    return ""
