"""The state store in Redis or Valkey, for serving on several machines.

All keys begin with `{rayrec}:`. The braces keep them on one node of a Redis Cluster.

    schema                the version of this layout
    number                the number of events that have arrived; each event gets the next number
    ids                   set of the event_ids in the store
    events:B              hash, number -> the event as JSON, for BUCKET numbers from B * BUCKET on. A hash has so few fields that
                          Redis can pack them, and deleting a field frees its memory.
    user:ID               sorted set of a user's events by time; a member is the number (12 digits), the kind's letter and the video
    hours, hour:H         set of the hours since 1970 that have events; list of the numbers of the events in one hour
    traffic:H             hash, "kind minute" -> the number of impressions or clicks
    withdrawn             set of videos
    forgotten             hash, digest of a user -> the number of the last event before the user was forgotten
    exports               hash, the last event of an export -> the time of its last impression

Two scripts add and delete events. Redis runs each script, and writes it to its log, as one atomic step.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from rayrec.config import ConfigError
from rayrec.serving.state.store import (
    MAX_EVENTS_READ,
    MAX_TABLE_ROWS,
    MINUTE,
    Activity,
    Counts,
    Event,
    Since,
    StoreError,
    Traffic,
    activity_of,
    digest,
    events_table,
)

SCHEMA = "1"
PREFIX = "{rayrec}:"
PASSWORD_VARIABLE = "RAYREC_REDIS_PASSWORD"  # for a URL without a password, since URLs are in configs, which people share
BUCKET = 128  # events in one hash
HOUR = 60 * MINUTE
DELETE_BATCH = 1000  # events deleted in one step
BUCKETS_PER_READ = 50  # hashes read in one step
DURABLE_SETTINGS = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}

# Redis writes Lua numbers with 14 digits. That is enough for the numbers that the scripts compute: events, minutes and hours.
COMMON = f"local p, bucket = '{PREFIX}', {BUCKET}\n"
ADD = (
    COMMON
    + """
local new = 0
for i = 1, #ARGV, 7 do
  local id, user, video, kind, at, minute, event = unpack(ARGV, i, i + 6)
  if redis.call('SADD', p .. 'ids', id) == 1 then
    local number, hour = redis.call('INCR', p .. 'number'), math.floor(minute / 60)
    redis.call('HSET', p .. 'events:' .. math.floor(number / bucket), number, event)
    redis.call('ZADD', p .. 'user:' .. user, at, string.format('%012d', number) .. kind .. video)
    redis.call('SADD', p .. 'hours', hour)
    redis.call('RPUSH', p .. 'hour:' .. hour, number)
    if kind == 'i' or kind == 'c' then redis.call('HINCRBY', p .. 'traffic:' .. hour, kind .. minute, 1) end
    new = new + 1
  end
end
return new
"""
)
DELETE = (
    COMMON
    + """
local gone = 0
for i = 1, #ARGV, 7 do
  local number, id, user, video, kind, at, minute = unpack(ARGV, i, i + 6)
  if redis.call('HDEL', p .. 'events:' .. math.floor(number / bucket), number) == 1 then
    redis.call('SREM', p .. 'ids', id)
    redis.call('ZREM', p .. 'user:' .. user, string.format('%012d', number) .. kind .. video)
    local traffic = p .. 'traffic:' .. math.floor(minute / 60)
    if (kind == 'i' or kind == 'c') and redis.call('HINCRBY', traffic, kind .. minute, -1) <= 0 then
      redis.call('HDEL', traffic, kind .. minute)
    end
    gone = gone + 1
  end
end
return gone
"""
)


# The two scripts that read return one JSON text, which the client parses much faster than thousands of small answers.
ACTIVITY = (
    COMMON
    + """
local latest = redis.call('ZREVRANGE', p .. 'user:' .. ARGV[1], 0, ARGV[3] - 1, 'WITHSCORES')
return {redis.call('HEXISTS', p .. 'forgotten', ARGV[2]), cjson.encode(latest)}
"""
)
READ = (
    COMMON
    + """
local found = {}
for _, number in ipairs(ARGV) do
  local events = redis.call('HGETALL', p .. 'events:' .. number)
  if #events > 0 then found[#found + 1] = table.concat(events, ',') end
end
return '[' .. table.concat(found, ',') .. ']'
"""
)


class RedisStore:
    """Keeps events in a Redis that is configured so that whatever it acknowledged survives a crash."""

    def __init__(self, url: str) -> None:
        """Raises `ConfigError` if the URL or the server's settings are wrong, `StoreError` if the server can't be reached now."""
        retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 3)
        try:
            self._redis: Any = redis.Redis.from_url(  # Any: according to the package's types, every answer may be bytes
                url, password=os.environ.get(PASSWORD_VARIABLE), decode_responses=True, retry=retry, socket_timeout=5.0
            )
        except ValueError as error:
            raise ConfigError(f"serving.state must be the URL of a Redis, such as redis://HOST:6379/0: {error}") from error
        self._add, self._delete, self._activity, self._read = map(self._redis.register_script, (ADD, DELETE, ACTIVITY, READ))
        with _as_store_errors():
            self._check()

    def add_events(self, events: Sequence[Event]) -> int:
        _check_values(events)
        arguments = [argument for event in events for argument in (*_keys(event), json.dumps(event, separators=(",", ":")))]
        with _as_store_errors():
            return int(self._add([f"{PREFIX}ids"], arguments)) if arguments else 0

    def activity(self, user_id: str, since: Since, max_clicks: int, max_seen: int) -> Activity:
        with _as_store_errors():
            forgotten, text = self._activity([f"{PREFIX}ids"], [user_id, digest(user_id), MAX_EVENTS_READ])
        members = iter(json.loads(text))  # a member, its time, a member, ...
        latest = [(int(at), int(member[:12]), member[12] == "c", member[13:]) for member, at in zip(members, members, strict=True)]
        return activity_of(latest, since, max_clicks, max_seen, bool(forgotten))

    def counts(self, after: int, since: Since) -> Counts:
        upto = self.latest()
        shown, clicked = Counter[str](), Counter[str]()
        for _, event in self._events(max(after, since.number) + 1, upto):
            if event.at > since.at and event.kind in ("impression", "click"):
                (shown if event.kind == "impression" else clicked)[event.video_id] += 1
        videos = list(dict.fromkeys([*shown, *clicked]))
        exposures, clicks = (np.array([counter[video] for video in videos], dtype=np.int64) for counter in (shown, clicked))
        return Counts(upto, videos, exposures, clicks)

    def latest(self) -> int:
        with _as_store_errors():
            return int(self._redis.get(f"{PREFIX}number") or 0)

    def since(self, log_until: int) -> Since:
        with _as_store_errors():
            exports = self._redis.hgetall(f"{PREFIX}exports")
        upto = max((int(upto) for upto, newest_at in exports.items() if int(newest_at) <= log_until), default=None)
        return Since(0, log_until) if upto is None else Since(upto, 0)

    def traffic(self, from_ms: int, bucket_ms: int) -> list[Traffic]:
        if bucket_ms % MINUTE:
            raise ValueError(f"traffic is counted in whole minutes, not in buckets of {bucket_ms} ms")
        start = from_ms - from_ms % bucket_ms
        shown, clicked = Counter[int](), Counter[int]()
        with _as_store_errors():
            hours = [hour for hour in self._hours() if hour >= start // HOUR]
            with self._redis.pipeline(transaction=False) as pipe:
                for hour in hours:
                    pipe.hgetall(f"{PREFIX}traffic:{hour}")
                found = pipe.execute()
        for field, count in (item for fields in found for item in fields.items()):
            at = int(field[1:]) * MINUTE
            if at >= start:
                (shown if field[0] == "i" else clicked)[at - at % bucket_ms] += int(count)
        return [Traffic(at, shown[at], clicked[at]) for at in sorted(shown | clicked)]

    def withdraw(self, video_id: str, withdrawn: bool) -> None:
        with _as_store_errors():
            (self._redis.sadd if withdrawn else self._redis.srem)(f"{PREFIX}withdrawn", video_id)

    def withdrawn(self) -> list[str]:
        with _as_store_errors():
            return list(self._redis.smembers(f"{PREFIX}withdrawn"))

    def forget(self, user_id: str) -> int:
        with _as_store_errors():
            self._redis.hset(f"{PREFIX}forgotten", digest(user_id), self.latest())  # at once, whatever happens later
            numbers = [int(member[:12]) for member in self._redis.zrange(f"{PREFIX}user:{user_id}", 0, -1)]
            starts = range(0, len(numbers), DELETE_BATCH)
            forgotten = sum(self._delete_events(numbers[start : start + DELETE_BATCH]) for start in starts)
            self._redis.hset(f"{PREFIX}forgotten", digest(user_id), self.latest())  # no deleted event may have a higher number
        return forgotten

    def forgotten(self, number: int) -> set[str]:
        with _as_store_errors():
            digests = self._redis.hgetall(f"{PREFIX}forgotten")
        return {digest for digest, at_number in digests.items() if int(at_number) >= number}

    def prune(self, before_ms: int) -> int:
        pruned = 0
        with _as_store_errors():
            for hour in (hour for hour in self._hours() if hour <= before_ms // HOUR):
                key = f"{PREFIX}hour:{hour}"
                for start in range(0, self._redis.llen(key), DELETE_BATCH):
                    numbers = [int(number) for number in self._redis.lrange(key, start, start + DELETE_BATCH - 1)]
                    pruned += self._delete_events(numbers, before_ms)
                if (hour + 1) * HOUR <= before_ms:
                    with self._redis.pipeline(transaction=True) as pipe:
                        pipe.delete(key, f"{PREFIX}traffic:{hour}").srem(f"{PREFIX}hours", hour).execute()
        return pruned

    def read(self, first: int, upto: int | None) -> Iterator[pa.Table]:
        rows = []
        for _, event in self._events(first, self.latest() if upto is None else upto):
            rows.append(event)
            if len(rows) == MAX_TABLE_ROWS:
                yield events_table(rows)
                rows = []
        if rows:
            yield events_table(rows)

    def exported(self, upto: int, newest_at: int) -> None:
        with _as_store_errors():
            self._redis.hset(f"{PREFIX}exports", str(upto), newest_at)

    def close(self) -> None:
        self._redis.close()

    # --- internals ---

    def _check(self) -> None:
        """Raises `ConfigError` if the server may lose what it acknowledged, or if another version of rayrec wrote its keys."""
        try:
            is_set = {name: self._redis.config_get(name).get(name) for name in DURABLE_SETTINGS}
        except redis.ResponseError as error:
            raise ConfigError(f"Redis does not reveal its settings ({error}): let rayrec's Redis user run CONFIG GET") from error
        wrong = {name: value for name, value in DURABLE_SETTINGS.items() if is_set[name] != value}
        if wrong:
            lines = ", ".join(f"`{name} {value}` (it is {is_set[name]})" for name, value in wrong.items())
            raise ConfigError(f"this Redis may lose events that it acknowledged: set {lines} in redis.conf or with CONFIG SET")
        self._redis.setnx(f"{PREFIX}schema", SCHEMA)
        schema = self._redis.get(f"{PREFIX}schema")
        if schema != SCHEMA:
            raise ConfigError(
                f"the events in this Redis have schema version {schema}, but this rayrec reads version {SCHEMA}: "
                "use the rayrec that wrote them, or name another database in serving.state"
            )

    def _events(self, first: int, upto: int) -> Iterator[tuple[int, Event]]:
        """The events from number `first` to `upto`, each with its number, in the order of their numbers."""
        for start in range(first // BUCKET, upto // BUCKET + 1, BUCKETS_PER_READ):
            buckets = list(range(start, min(start + BUCKETS_PER_READ, upto // BUCKET + 1)))
            with _as_store_errors():
                found = iter(json.loads(self._read([f"{PREFIX}ids"], buckets)))  # a number, its event, a number, ...
            for number, event in sorted(zip(found, found, strict=True)):
                if first <= number <= upto:
                    yield number, Event(*event)

    def _delete_events(self, numbers: list[int], before_ms: int | None = None) -> int:
        """Deletes events by number (if a time is given, only those that happened before it) and returns how many were deleted."""
        with self._redis.pipeline(transaction=False) as pipe:
            for number in numbers:
                pipe.hget(f"{PREFIX}events:{number // BUCKET}", str(number))
            found = pipe.execute()
        events = [(number, Event(*json.loads(text))) for number, text in zip(numbers, found, strict=True) if text]
        old = [(number, *_keys(event)) for number, event in events if before_ms is None or event.at < before_ms]
        arguments = [argument for each in old for argument in each]
        return int(self._delete([f"{PREFIX}ids"], arguments)) if arguments else 0

    def _hours(self) -> list[int]:
        return sorted(map(int, self._redis.smembers(f"{PREFIX}hours")))


def _keys(event: Event) -> tuple[Any, ...]:
    """What the scripts need to find an event's keys: id, user, video, the kind's letter, time, minute since 1970."""
    return event.event_id, event.user_id, event.video_id, event.kind[0], event.at, event.at // MINUTE


def _check_values(events: Sequence[Event]) -> None:
    """Raises `ValueError` if an event lacks a required field, before any event of its batch is kept."""
    for event in events:
        for name, value in zip(Event._fields[:5], event, strict=False):
            if value is None:
                raise ValueError(f"event {event.event_id!r} has no {name}")


@contextmanager
def _as_store_errors() -> Iterator[None]:
    """Turns errors of Redis into `StoreError`."""
    try:
        yield
    except redis.RedisError as error:
        raise StoreError(f"Redis can't answer now: {error}") from error
