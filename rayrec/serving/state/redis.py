"""The state store in Redis or Valkey, for serving on several machines.

`redis_scripts.py` describes its keys.
"""

import itertools
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from rayrec.config import ConfigError
from rayrec.serving.state.intake import Batch, Intake, WritesByIntake
from rayrec.serving.state.redis_events import LETTERS, OWN, add_arguments, event_keys, read_event
from rayrec.serving.state.redis_scripts import (
    ACTIVITY,
    ADD,
    ADD_VIDEO,
    BUCKET,
    DELETE,
    FORGET,
    MARK_SEEN,
    MIGRATE,
    PREFIX,
    PRUNE_HOUR,
    PRUNE_SEEN,
    READ,
    WITHDRAW,
)
from rayrec.serving.state.seen import codes_by_day
from rayrec.serving.state.store import (
    DAY,
    FEEDBACK,
    KEPT,
    MAX_EVENTS_READ,
    MAX_TABLE_ROWS,
    MINUTE,
    Activity,
    Addition,
    Counts,
    Event,
    Exposure,
    Since,
    StoreError,
    Traffic,
    Upload,
    activity_of,
    digest,
    events_table,
)

SCHEMA = "5"
PASSWORD_VARIABLE = "RAYREC_REDIS_PASSWORD"  # for a URL without a password, since URLs are in configs, which people share
HOUR = 60 * MINUTE
DELETE_BATCH = 200  # events deleted in one step; between steps, others write
MIGRATE_BATCH = 1000  # events
SCANNED = 1000  # users that are read in one step
SETTINGS_CHECK_S = 5.0  # how often a running store checks what it demands of its server
BUCKETS_PER_READ = 50  # hashes read in one step
DURABLE_SETTINGS = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}

log = logging.getLogger(__name__)


class RedisStore(WritesByIntake):
    """Keeps events in a Redis that is configured so that whatever it acknowledged survives a crash."""

    def __init__(self, url: str, exposure: Exposure = "impression") -> None:
        """Raises `ConfigError` if the URL or the server's settings are wrong, `StoreError` if the server can't be reached now."""
        self.exposure = exposure
        retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 3)
        options: dict[str, Any] = {"password": os.environ.get(PASSWORD_VARIABLE), "retry": retry, "socket_timeout": 5.0}
        try:
            # Any: according to the package's types, every answer may be bytes
            self._redis: Any = redis.Redis.from_url(url, decode_responses=True, **options)
            self._bytes: Any = redis.Redis.from_url(url, **options)  # for answers that are no text
        except ValueError as error:
            raise ConfigError(f"serving.state must be the URL of a Redis, such as redis://HOST:6379/0: {error}") from error
        scripts = ADD, DELETE, FORGET, WITHDRAW, READ, ADD_VIDEO
        self._add, self._delete, self._forget, self._withdraw, self._read, self._add_video = map(
            self._redis.register_script, scripts
        )
        self._prune_seen, self._prune_hour = map(self._redis.register_script, (PRUNE_SEEN, PRUNE_HOUR))
        self._activity = self._bytes.register_script(ACTIVITY)
        self._checked_at = time.monotonic()
        with _as_store_errors():
            self._check_settings()
            self._check_schema()
        self._intake = Intake(self._write)

    def activity(self, user_id: str, since: Since, max_clicks: int, seen_since: int, delivered_since: int) -> Activity:
        shown_since = "" if self.exposure == "impression" else delivered_since
        letters = [LETTERS[kind] for kind in FEEDBACK]
        arguments: list[str | int] = [user_id, digest(user_id), MAX_EVENTS_READ, seen_since // DAY, shown_since, *letters]
        with _as_store_errors():
            forgotten, text, seen, fields = self._activity([f"{PREFIX}known"], arguments)
        found = [iter(members) for members in json.loads(text)]  # a member, its time, a member, ...
        clicks, delivered, *told = (
            [(int(at), int(member[:12]), member[13:]) for member, at in zip(members, members, strict=True)] for members in found
        )
        said = [(at, number, kind, video) for kind, its in zip(FEEDBACK, told, strict=True) for at, number, video in its]
        return activity_of(clicks, since, max_clicks, seen, delivered, said, bool(forgotten), (fields or b"").decode())

    def activity_at_once(
        self, user_id: str, since: Since, max_clicks: int, seen_since: int, delivered_since: int
    ) -> Activity | None:
        return None  # it is on another machine

    def counts(self, after: int, since: Since) -> Counts:
        upto = self.latest()
        shown, clicked = Counter[str](), Counter[str]()
        for _, event, repeated in self._events(max(after, since.number) + 1, upto):
            if event.at > since.at and not repeated and event.kind in (self.exposure, "click"):
                (clicked if event.kind == "click" else shown)[event.video_id] += 1
        videos = list(dict.fromkeys([*shown, *clicked]))
        exposures, clicks = (np.array([counter[video] for video in videos], dtype=np.int64) for counter in (shown, clicked))
        return Counts(upto, videos, exposures, clicks)

    def latest(self) -> int:
        with _as_store_errors():
            return int(self._redis.get(f"{PREFIX}number") or 0)

    def since(self, log_until: int, log_upto: int | None = None) -> Since:
        with _as_store_errors():
            exports = {int(upto): int(newest_at) for upto, newest_at in self._redis.hgetall(f"{PREFIX}exports").items()}
        in_log = [upto for upto, newest_at in exports.items() if (newest_at <= log_until if log_upto is None else upto <= log_upto)]
        upto = max(in_log, default=None)
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
            at, kind = int(field[1:]) * MINUTE, field[0]
            if at >= start and kind in (self.exposure[0], "c"):
                (clicked if kind == "c" else shown)[at - at % bucket_ms] += int(count)
        return [Traffic(at, shown[at], clicked[at]) for at in sorted(shown | clicked)]

    def withdraw(self, video_id: str, withdrawn: bool) -> None:
        with _as_store_errors():
            if withdrawn:
                self._withdraw([f"{PREFIX}withdrawn"], [video_id])
            else:
                self._redis.srem(f"{PREFIX}withdrawn", video_id)

    def withdrawn(self) -> list[str]:
        with _as_store_errors():
            return list(self._redis.smembers(f"{PREFIX}withdrawn"))

    def forget(self, user_id: str) -> int:
        with _as_store_errors():
            self._forget([f"{PREFIX}forgotten"], [digest(user_id), self.latest()])  # at once, whatever happens later
            self._redis.hdel(f"{PREFIX}users", user_id)
            for day in self._redis.smembers(f"{PREFIX}seen_days"):
                self._redis.hdel(f"{PREFIX}seen:{day}", user_id)
            sets = [f"{PREFIX}of:{letter}:{user_id}" for letter in [*LETTERS.values(), OWN]]
            numbers = sorted(int(member[:12]) for key in sets for member in self._redis.zrange(key, 0, -1))
            starts = range(0, len(numbers), DELETE_BATCH)
            forgotten = sum(self._delete_events(numbers[start : start + DELETE_BATCH]) for start in starts)
            self._forget([f"{PREFIX}forgotten"], [digest(user_id), self.latest()])  # no deleted event may have a higher number
        return forgotten

    def put_users(self, users: Mapping[str, str]) -> None:
        with _as_store_errors():
            self._redis.hset(f"{PREFIX}users", mapping=dict(users))

    def users(self) -> dict[str, str]:
        with _as_store_errors():
            return dict(self._redis.hscan_iter(f"{PREFIX}users", count=SCANNED))

    def forgotten(self, number: int) -> set[str]:
        with _as_store_errors():
            digests = self._redis.hgetall(f"{PREFIX}forgotten")
        return {digest for digest, at_number in digests.items() if int(at_number) >= number}

    def prune(self, before_ms: int, seen_before_ms: int) -> int:
        pruned = 0
        with _as_store_errors():
            for day in self._redis.smembers(f"{PREFIX}seen_days"):
                if int(day) < seen_before_ms // DAY:
                    self._prune_seen([f"{PREFIX}known"], [day])
            for video, text in self._redis.hgetall(f"{PREFIX}uploads").items():
                if Upload(*json.loads(text)).at < before_ms:
                    self._redis.hdel(f"{PREFIX}uploads", video)
            for hour in (hour for hour in self._hours() if hour <= before_ms // HOUR):
                kept, is_over = 0, (hour + 1) * HOUR <= before_ms
                while texts := self._redis.lrange(f"{PREFIX}hour:{hour}", kept, kept + DELETE_BATCH - 1):
                    pruned += self._delete_events([int(text) for text in texts], before_ms)
                    kept += 0 if is_over else len(texts)
                    if is_over:  # in small steps, and only what has been read: others may write to the hour now
                        self._prune_hour([f"{PREFIX}known"], [hour, texts[-1]])
                if is_over:  # also an hour that lost its list, but stayed, in an earlier version
                    self._prune_hour([f"{PREFIX}known"], [hour, 0])
        return pruned

    def add_video(self, video_id: str, model: str, row: str) -> Addition:
        with _as_store_errors():
            arguments = [video_id, model, json.dumps([video_id, model, row])]
            number, text = self._add_video([f"{PREFIX}known"], arguments)
        return Addition(int(number), *json.loads(text))

    def additions(self, after: int) -> list[Addition]:
        with _as_store_errors():
            latest = int(self._redis.get(f"{PREFIX}video_number") or 0)
            return self._additions(range(after + 1, latest + 1))

    def additions_of(self, video_id: str) -> list[Addition]:
        with _as_store_errors():
            return self._additions(sorted(map(int, self._redis.hvals(f"{PREFIX}added:{video_id}"))))

    def remove_additions(self, numbers: Sequence[int]) -> None:
        with _as_store_errors():
            for addition in self._additions(numbers):
                self._redis.hdel(f"{PREFIX}added:{addition.video_id}", addition.model)
                self._redis.hdel(f"{PREFIX}additions", str(addition.number))

    def note_upload(self, video_id: str, upload: Upload | None) -> None:
        with _as_store_errors():
            if upload is None:
                self._redis.hdel(f"{PREFIX}uploads", video_id)
            else:
                self._redis.hset(f"{PREFIX}uploads", video_id, json.dumps(upload))

    def upload(self, video_id: str) -> Upload | None:
        with _as_store_errors():
            text = self._redis.hget(f"{PREFIX}uploads", video_id)
        return Upload(*json.loads(text)) if text else None

    def read(self, first: int, upto: int | None) -> Iterator[pa.Table]:
        rows = []
        for _, event, _ in self._events(first, self.latest() if upto is None else upto):
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
        self._intake.close()
        self._redis.close()
        self._bytes.close()

    # --- internals ---

    def _write(self, batches: list[Batch]) -> None:
        """Adds batches, each as a whole or not at all, all of them in one journey to the server."""
        with _as_store_errors():
            if time.monotonic() - self._checked_at > SETTINGS_CHECK_S:
                try:
                    self._check_settings()
                except ConfigError as error:  # somebody has changed them since the store was opened
                    raise StoreError(str(error)) from error
                self._checked_at = time.monotonic()
            valid, keys = [], [f"{PREFIX}known"]
            for batch in batches:
                try:
                    valid.append((batch, add_arguments(batch.events, self.exposure)))
                except ValueError as error:
                    batch.result.set_exception(error)
            with self._redis.pipeline(transaction=False) as pipe:
                for _, arguments in valid:
                    pipe.evalsha(self._add.sha, 1, *keys, *arguments)
                answers = pipe.execute(raise_on_error=False)
            for (batch, arguments), answer in zip(valid, answers, strict=True):
                if isinstance(answer, redis.exceptions.NoScriptError):  # the server was restarted, or is new
                    answer = self._add(keys, arguments)
                if isinstance(answer, Exception):
                    batch.result.set_exception(StoreError(f"Redis can't answer now: {answer}"))
                else:
                    batch.result.set_result([batch.events[place] for place in answer])

    def _check_settings(self) -> None:
        """Raises `ConfigError` if the server may lose what it acknowledged."""
        try:
            is_set = {name: self._redis.config_get(name).get(name) for name in DURABLE_SETTINGS}
        except redis.ResponseError as error:
            raise ConfigError(f"Redis does not reveal its settings ({error}): let rayrec's Redis user run CONFIG GET") from error
        wrong = {name: value for name, value in DURABLE_SETTINGS.items() if is_set[name] != value}
        if wrong:
            lines = ", ".join(f"`{name} {value}` (it is {is_set[name]})" for name, value in wrong.items())
            raise ConfigError(f"this Redis may lose events that it acknowledged: set {lines} in redis.conf or with CONFIG SET")

    def _check_schema(self) -> None:
        """Brings the keys of older versions up to date. Raises `ConfigError` if another version of rayrec wrote them."""
        self._redis.setnx(f"{PREFIX}schema", SCHEMA)
        schema = self._redis.get(f"{PREFIX}schema")
        if schema == "4":  # whose events lack the last field
            self._redis.set(f"{PREFIX}schema", SCHEMA)
        elif schema in ("1", "2", "3"):  # the events of version 2 have no context, and those of version 3 no page
            log.warning("the events in Redis are brought up to date, which takes minutes for many of them")
            if schema == "1":
                self._migrate_from_1()
            self._fill_seen()
            self._redis.set(f"{PREFIX}schema", SCHEMA)
        elif schema != SCHEMA:
            raise ConfigError(
                f"the events in this Redis have schema version {schema}, but this rayrec reads version {SCHEMA}: "
                "use the rayrec that wrote them, or name another database in serving.state"
            )

    def _migrate_from_1(self) -> None:
        """Makes the keys of the events anew. In version 1, all users shared the event ids, and one set held a user's events."""
        move, arguments = self._redis.register_script(MIGRATE), []
        for number, event, _ in self._events(1, self.latest()):
            id, user, video, kind, at, _, day, mark, _, text = add_arguments([event], self.exposure)
            arguments += [number, id, user, video, kind, at, day, mark, text]
            if len(arguments) >= 9 * MIGRATE_BATCH:
                move([f"{PREFIX}known"], arguments)
                arguments = []
        move([f"{PREFIX}known"], arguments)
        for key in (f"{PREFIX}ids", *self._redis.scan_iter(f"{PREFIX}user:*", MIGRATE_BATCH)):
            self._redis.unlink(key)

    def _fill_seen(self) -> None:
        """Notes what users have seen in events of a version that did not say so. It can be repeated."""
        mark, events = self._redis.register_script(MARK_SEEN), self._events(1, self.latest())
        while some := [event for _, event, _ in itertools.islice(events, MIGRATE_BATCH)]:
            seen = codes_by_day(some, self.exposure)
            mark([f"{PREFIX}known"], [value for (user, day), own in seen.items() for each in own for value in (user, day, each)])

    def _events(self, first: int, upto: int) -> Iterator[tuple[int, Event, bool]]:
        """The events from number `first` to `upto`, in the order of their numbers: number, event, and whether it is a repeat."""
        for start in range(first // BUCKET, upto // BUCKET + 1, BUCKETS_PER_READ):
            buckets = list(range(start, min(start + BUCKETS_PER_READ, upto // BUCKET + 1)))
            with _as_store_errors():
                found = iter(json.loads(self._read([f"{PREFIX}known"], buckets)))  # a number, its event, a number, ...
            for number, event in sorted(zip(found, found, strict=True)):
                if first <= number <= upto:
                    yield number, *read_event(event)

    def _delete_events(self, numbers: list[int], before_ms: int | None = None) -> int:
        """Deletes events by number (if a time is given, only those that happened before it) and returns how many were deleted."""
        with self._redis.pipeline(transaction=False) as pipe:
            for number in numbers:
                pipe.hget(f"{PREFIX}events:{number // BUCKET}", str(number))
            found = pipe.execute()
        events = [(number, *read_event(json.loads(text))) for number, text in zip(numbers, found, strict=True) if text]
        old = [
            (number, *event_keys(event), int(repeated))
            for number, event, repeated in events
            if before_ms is None or (event.at < before_ms and event.kind not in KEPT)
        ]
        arguments = [argument for each in old for argument in each]
        return int(self._delete([f"{PREFIX}known"], arguments)) if arguments else 0

    def _additions(self, numbers: Sequence[int]) -> list[Addition]:
        """The additions with these numbers that are there."""
        found = []
        for start in range(0, len(numbers), DELETE_BATCH):
            some = numbers[start : start + DELETE_BATCH]
            texts = self._redis.hmget(f"{PREFIX}additions", [str(number) for number in some])
            found += [Addition(number, *json.loads(text)) for number, text in zip(some, texts, strict=True) if text]
        return found

    def _hours(self) -> list[int]:
        return sorted(map(int, self._redis.smembers(f"{PREFIX}hours")))


@contextmanager
def _as_store_errors() -> Iterator[None]:
    """Turns errors of Redis into `StoreError`."""
    try:
        yield
    except redis.RedisError as error:
        raise StoreError(f"Redis can't answer now: {error}") from error
