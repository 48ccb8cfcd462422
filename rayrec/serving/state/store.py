"""What arrives while the service runs: events, and what follows from them about users and videos; and new videos.

`StateStore` is all that serving asks of a store. `SqliteStore` keeps it in one file, for any number of processes on one machine;
`RedisStore` keeps it in Redis, for any number of machines. Of users both keep the events, from which histories and counts follow,
and, for longer than the events, what they have seen (`seen.py`). A `Since` skips the events that the training log already holds.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
import pyarrow as pa

from rayrec import tables
from rayrec.errors import RayrecError

# What users say of videos. `recall/feedback.py` says what follows from it.
Told = Literal["like", "skip", "not_interested", "less_topic", "less_author", "block_author", "unblock_author", "undo"]
FEEDBACK: tuple[Told, ...] = get_args(Told)
Kind = Literal["impression", "view", "click", "watch", Told]
KINDS: tuple[Kind, ...] = get_args(Kind)
# The kind of event that counts as an exposure: a delivery (`serving.views: assumed`), or a view that the client reported.
Exposure = Literal["impression", "view"]
TAKES_BACK: tuple[Kind, ...] = ("unblock_author", "undo")  # said in a list of what was said before, and not of a video in view
# However old they are: what is not for a user never comes again, and a block holds until it is taken back.
KEPT: tuple[Kind, ...] = ("not_interested", "block_author", *TAKES_BACK)
MAX_TOLD = 500  # of a user's latest likes, and of the skips, `activity` tells so many as feedback
# `activity` reads only so many of a user's latest events of each kind. Thus no user is slow, and no number of events of one kind (a
# player may send `watch` every second) hides those of another.
MAX_EVENTS_READ = 4096
MAX_TABLE_ROWS = 200_000  # in each table that `read` yields
MINUTE = 60_000  # ms
DAY = 1440 * MINUTE


class StoreError(RayrecError):
    """The store can't answer now (its disk is full, it restarts, another process blocks it); a later call may succeed."""


class Event(NamedTuple):
    """One row of the `events` table. `at` is UTC ms. Each user has event ids of their own."""

    event_id: str
    user_id: str
    video_id: str
    kind: Kind
    at: int
    request_id: str | None = None
    watch_s: float | None = None
    arm: str | None = None
    context: str | None = None  # of the request in which the video was shown: a JSON object, None if nothing was said
    position: int | None = None  # of an impression: the video's place in the page, from 0
    page_number: int | None = None  # of an impression: the number of the page in its session, as the caller said it
    session_id: str | None = None  # of an impression: the visit that the page belongs to, as the caller said it
    dwell_s: float | None = None  # of a view: how long the video was in view
    # How the video of an impression came to its place, None where no place of the page could explore: a JSON object with the
    # `propensity` with which it was shown there, and the videos `among` which it was drawn, if it was.
    draw: str | None = None


class Since(NamedTuple):
    """Only events whose number (the order of arrival) is above `number` and that happened after `at` (UTC ms) count."""

    number: int = 0
    at: int = 0


class Activity(NamedTuple):
    """A user's latest clicked videos with their times, oldest first, and what the user has seen."""

    clicked: list[str]
    clicked_at: list[int]  # UTC ms
    seen: bytes  # the codes (`seen.py`) of each day, the earliest day first; on a day, what was seen last comes last
    delivered: list[str]  # lately, in the order of their deliveries, whether seen or not; empty where deliveries count as views
    forgotten: bool  # the user asked to be forgotten, so the training log must not be used for this user
    fields: str = ""  # what was said of the user last, JSON; empty for a user of whom nothing was said
    # The latest feedback, oldest first: kind, video, UTC ms. A training log holds nothing of it, so that no `Since` leaves it out.
    feedback: tuple[tuple[Kind, str, int], ...] = ()


class Counts(NamedTuple):
    """By how many users each video was seen (`StateStore.exposure`) and clicked, in the events up to number `upto`.

    A user counts once a day (UTC) for each video, however many events they send, so that nobody can lift or sink a video alone.
    """

    upto: int
    video_ids: list[str]
    exposures: np.ndarray  # int64 [videos]
    clicks: np.ndarray  # int64 [videos]


class Traffic(NamedTuple):
    """The number of all exposures (`StateStore.exposure`) and clicks in a period that begins `at` (UTC ms)."""

    at: int
    impressions: int
    clicks: int


class Addition(NamedTuple):
    """A video that was added while the service runs, as one model (see `serving/additions.py`) describes it."""

    number: int  # the order of arrival, from 1; none is given twice
    video_id: str
    model: str  # the fingerprint of the model
    row: str  # what is known of the video, JSON


class Upload(NamedTuple):
    """A video that was sent and is not added yet: it is being worked on, or was rejected."""

    at: int  # when it came, UTC ms
    error: str | None  # why it was rejected; None while it is being worked on


class StateStore(Protocol):
    """Every method may be called from any thread, and raises `StoreError` if the store can't answer now."""

    exposure: Exposure  # the kind of event that says that a video was seen

    def add_events(self, events: Sequence[Event]) -> list[Event]:
        """Keeps the events whose event_id is new to their user, and returns the others, which are not kept.

        When it returns, the events survive a power cut. If it raises an exception, no event of the batch is kept, except that the
        whole batch may be kept if only the answer was lost on its way. Sending a batch again is always safe.
        """

    def submit(self, events: Sequence[Event]) -> "Future[list[Event]]":
        """Returns at once; the future has the result of `add_events`. Must not be cancelled."""

    def write_delay(self) -> float:
        """For how many seconds the oldest submitted batch has been waiting to be written; 0 if none waits."""

    def activity(self, user_id: str, since: Since, max_clicks: int, seen_since: int, delivered_since: int) -> Activity:
        """A user's latest activity in the order in which it happened, however late the events arrived.

        Clicks and deliveries are taken from the user's latest `MAX_EVENTS_READ` events of these kinds; `since` counts for clicks
        alone. Seen is what was seen since the day (UTC) of `seen_since`, delivered what was delivered since `delivered_since`
        (both UTC ms).
        """

    def activity_at_once(
        self, user_id: str, since: Since, max_clicks: int, seen_since: int, delivered_since: int
    ) -> Activity | None:
        """The same, for an event loop: None where the answer may take longer than to ask for it in a thread."""

    def counts(self, after: int, since: Since) -> Counts:
        """Exposures and clicks in the events that count and whose number is above `after` (0 for all).

        What a user did on the same day in an event with a lower number has been counted, whether it counts here or is in the log.
        """

    def latest(self) -> int:
        """The number of the latest event. Numbers grow, and none is given twice."""

    def since(self, log_until: int, log_upto: int | None = None) -> Since:
        """Describes the events that a training log does not hold that ends at `log_until` (UTC ms).

        `log_upto` is the number of the last event that the log takes into account, if it contains an export that says so. Then
        these are the events that arrived after the last complete export up to this number, so that none is missed, however late it
        came. An older export is known by the time of its last impression. Without any export, these are the events that happened
        after the end of the log.
        """

    def traffic(self, from_ms: int, bucket_ms: int) -> list[Traffic]:
        """Traffic in buckets of `bucket_ms` (whole minutes) from the one that contains `from_ms`, without empty buckets."""

    def withdraw(self, video_id: str, withdrawn: bool) -> None:
        """Takes a video out of all pages, or lets it return."""

    def withdrawn(self) -> list[str]: ...

    def forget(self, user_id: str) -> int:
        """Deletes a user's events, and what was said of the user, and returns the number of the events.

        A digest of the user's id stays, but never the id.
        """

    def put_users(self, users: Mapping[str, str]) -> None:
        """Keeps what is said of each user (JSON), instead of what was said before. When it returns, it survives a power cut."""

    def users(self) -> dict[str, str]:
        """What was said last of each user (JSON)."""

    def forgotten(self, number: int) -> set[str]:
        """The digests of the users who were forgotten after the event with this number, or just before the next one."""

    def prune(self, before_ms: int, seen_before_ms: int) -> int:
        """Deletes the events that happened earlier, save those `KEPT`, and the uploads. Returns the number of the events.

        Also deletes what was seen on days (UTC) before that of `seen_before_ms`.
        """

    def add_video(self, video_id: str, model: str, row: str) -> Addition:
        """Keeps a video as a model describes it, and returns what is kept: the first row of this video and model stays.

        When it returns, the row survives a power cut.
        """

    def additions(self, after: int) -> list[Addition]:
        """The added videos whose number is above `after` (0 for all), in the order of their numbers."""

    def additions_of(self, video_id: str) -> list[Addition]:
        """One video as each model describes it, in the order of their numbers."""

    def remove_additions(self, numbers: Sequence[int]) -> None: ...

    def note_upload(self, video_id: str, upload: Upload | None) -> None:
        """Notes what has become of a video that was sent; None forgets it."""

    def upload(self, video_id: str) -> Upload | None: ...

    def read(self, first: int, upto: int | None) -> Iterator[pa.Table]:
        """The events from number `first` to `upto` (None for all) as `events` tables, in the order of arrival."""

    def exported(self, upto: int, newest_at: int) -> None:
        """Notes that an export is complete: it holds the events up to `upto`, and its last impression happened at `newest_at`."""

    def close(self) -> None: ...


def activity_of(
    clicks: Iterable[tuple[int, int, str]],
    since: Since,
    max_clicks: int,
    seen: bytes,
    delivered: Iterable[tuple[int, int, str]],
    told: Iterable[tuple[int, int, Kind, str]],
    forgotten: bool,
    fields: str,
) -> Activity:
    """Computes an activity from a user's latest events, each in any order.

    Clicks and deliveries are (time, number, video), and what the user told of videos (`FEEDBACK`) is (time, number, kind, video).
    """
    counting = sorted((click for click in clicks if click[0] > since.at and click[1] > since.number), reverse=True)
    latest = counting[:max_clicks][::-1]
    shown = [video for _, _, video in sorted(delivered)]
    left, said = dict.fromkeys(("like", "skip"), MAX_TOLD), []
    for at, _, kind, video in sorted(told, reverse=True):
        if left.get(kind, 1):
            said.append((kind, video, at))
            if kind in left:
                left[kind] -= 1
    facts = [video for _, _, video in latest], [at for at, _, _ in latest], seen, shown, forgotten, fields
    return Activity(*facts, tuple(said[::-1]))


def digest(user_id: str) -> str:
    """What is kept of a forgotten user: enough to recognise the id when it comes again, not enough to read it."""
    return hashlib.blake2b(user_id.encode(), digest_size=16).hexdigest()


def events_table(rows: Iterable[Sequence[object]]) -> pa.Table:
    """Makes the table `events` from rows with the fields of `Event` in their order."""
    columns = dict(zip(Event._fields, zip(*rows, strict=True), strict=False))
    return tables.conform("events", pa.table(columns)) if columns else tables.empty("events")
