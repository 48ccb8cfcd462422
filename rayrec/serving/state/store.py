"""What arrives online: events, and what they say about users and videos.

`StateStore` is all that serving asks of a store. `SqliteStore` keeps it in one file, for any number of processes on one machine;
`RedisStore` keeps it in Redis, for any number of machines. Both hold the events alone, so that histories, seen videos and counts
can't disagree with them. What the training log already told is passed by with a `Since`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from rayrec import tables
from rayrec.config import Config, ConfigError
from rayrec.errors import RayrecError

Kind = Literal["impression", "click", "watch", "like", "skip"]
MAX_READ = 4096  # of a user's events `activity` looks at the latest so many, so that no user is slow
PIECE = 200_000  # events in a table of `read`, at most
MINUTE = 60_000  # ms
REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


class StoreError(RayrecError):
    """The store can't answer now (its disk is full, it restarts, another process holds it too long); a later call may succeed."""


class Event(NamedTuple):
    """One row of the `events` table. `at` is UTC ms."""

    event_id: str
    user_id: str
    video_id: str
    kind: Kind
    at: int
    request_id: str | None = None
    watch_s: float | None = None
    arm: str | None = None


class Since(NamedTuple):
    """Events count that have a number above `number` (the order of their arrival) and happened later than `at` (UTC ms)."""

    number: int = 0
    at: int = 0


class Activity(NamedTuple):
    """What one user did last: clicked videos with their times, and the distinct videos of any event; each oldest first."""

    clicked: list[str]
    clicked_at: list[int]
    seen: list[str]
    forgotten: bool  # the person asked to be forgotten: the training log must not speak for this user


class Counts(NamedTuple):
    """How often videos were shown and clicked in the events up to number `upto`."""

    upto: int
    video_ids: list[str]
    exposures: np.ndarray  # int64 [videos]
    clicks: np.ndarray  # int64 [videos]


class Traffic(NamedTuple):
    """All impressions and clicks of a stretch of time that starts `at` (UTC ms)."""

    at: int
    impressions: int
    clicks: int


class StateStore(Protocol):
    """Every method may be called from any thread, and raises `StoreError` when the store can't answer now."""

    def add_events(self, events: Sequence[Event]) -> int:
        """Keep the events that are not there yet (by event_id) and return how many those were.

        When it returns they survive a power cut. All of a batch is kept, or, if an exception is raised, nothing; but where the
        answer alone was lost on its way, all of it may be there. To send it again is always right.
        """

    def activity(self, user_id: str, since: Since, max_clicks: int, max_seen: int) -> Activity:
        """A user's latest activity by the time of the events, however late they arrived; from the latest `MAX_READ` of them."""

    def counts(self, after: int, since: Since) -> Counts:
        """Exposures and clicks in the events that count and have a number above `after` (0 for all)."""

    def latest(self) -> int:
        """The number of the event that came last; numbers grow, and none is given twice."""

    def since(self, log_until: int) -> Since:
        """What a training log that ends at `log_until` (UTC ms) does not hold.

        When that log goes at least as far as some export did, these are the events that arrived after the newest such export, so
        that none is missed however late it came. Otherwise the events that happened after the log's end.
        """

    def traffic(self, from_ms: int, bucket_ms: int) -> list[Traffic]:
        """By time, in buckets of `bucket_ms` (whole minutes), from the one that holds `from_ms` on; empty ones are left out."""

    def withdraw(self, video_id: str, withdrawn: bool) -> None:
        """Take a video out of every page, or let it come back."""

    def withdrawn(self) -> list[str]: ...

    def forget(self, user_id: str) -> int:
        """Delete a user's events and return how many those were. Of the user a digest stays, never the id."""

    def forgotten(self, number: int) -> set[str]:
        """The digests of the users who were forgotten after the event of this number had come (or just before the next one)."""

    def prune(self, before_ms: int) -> int:
        """Delete the events that happened earlier and return how many those were."""

    def read(self, first: int, upto: int | None) -> Iterator[pa.Table]:
        """The table `events`, from number `first` to `upto` (the end when None), in pieces and in the order of arrival."""

    def exported(self, upto: int, newest_at: int) -> None:
        """Remember that an export is whole: it holds the events up to `upto`, its last impression was at `newest_at`."""

    def close(self) -> None: ...


def open_store(config: Config) -> StateStore:
    """The store that `serving.state` names. Raises `ConfigError` when it can't be used, `StoreError` when it can't be had now."""
    if is_redis(config):
        try:
            from rayrec.serving.state.redis import RedisStore  # only those who use it need the package
        except ModuleNotFoundError as error:
            raise ConfigError("serving.state names a Redis, which needs one more package: pip install 'rayrec[redis]'") from error
        return RedisStore(str(config.serving.state))
    from rayrec.serving.state.sqlite import SqliteStore

    return SqliteStore(state_path(config))


def is_redis(config: Config) -> bool:
    return (config.serving.state or "").startswith(REDIS_SCHEMES)


def state_path(config: Config) -> Path:
    """The SQLite file of a config. Raises `ConfigError` when the events are kept elsewhere, or when a place must be named."""
    state = config.serving.state
    if state and "://" in state:
        known = "they are kept in Redis" if is_redis(config) else "it is neither a file nor redis://HOST:PORT/DATABASE"
        raise ConfigError(f"serving.state names no SQLite file: {known}")
    if state:
        return Path(state).expanduser().resolve()
    if "://" in config.workspace:
        raise ConfigError(
            f"the events can't be kept in {config.workspace}: set serving.state to a local file, such as events.db, or to Redis"
        )
    return Path(config.workspace).expanduser().resolve() / "state" / "events.db"


def activity_of(
    latest: Iterable[tuple[int, int, bool, str]], since: Since, max_clicks: int, max_seen: int, forgotten: bool
) -> Activity:
    """The activity that a user's latest events tell: (time, number, is it a click, video), the latest first."""
    counting = [event for event in latest if event[0] > since.at and event[1] > since.number]
    clicks = [(video, at) for at, _, click, video in counting if click][:max_clicks][::-1]
    seen = list(dict.fromkeys([event[3] for event in counting]))[:max_seen][::-1]
    return Activity([video for video, _ in clicks], [at for _, at in clicks], seen, forgotten)


def digest(user_id: str) -> str:
    """What is kept of a forgotten user: enough to know the id again when it comes, not enough to read it."""
    return hashlib.blake2b(user_id.encode(), digest_size=16).hexdigest()


def events_table(rows: Iterable[Sequence[object]]) -> pa.Table:
    """Rows with the fields of `Event`, in that order, as the table `events`."""
    columns = dict(zip(Event._fields, zip(*rows, strict=True), strict=False))
    return tables.conform("events", pa.table(columns)) if columns else tables.empty("events")
