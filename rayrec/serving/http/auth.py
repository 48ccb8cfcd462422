"""Who may ask, how much and how long: API keys, the Host header, content types, body sizes, rates, places and time.

Without API keys the service is for this machine alone. It then answers only requests whose Host header names the loopback, so that
a web page elsewhere can't reach it through a DNS name of its own that points here; and as every POST must be `application/json`, a
browser asks first (CORS preflight) before it sends one from another site, and gets no consent.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayrec.config import ConfigError

KEYS_VARIABLE = "RAYREC_API_KEYS"  # comma-separated; a caller sends one as "Authorization: Bearer KEY"
FILE_VARIABLE = "RAYREC_API_KEYS_FILE"  # the path of a file with a key a line
FILE_CHECKED_S = 1.0  # how often that file is looked at
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
CALLER = "rayrec.caller"  # in a scope: a name for the key that was sent, of which nothing can be learned
MAX_ELSEWHERE = 64 * 2**10  # bytes of a body sent to a path that takes none
MAX_DRAINED = 16 * 2**20  # bytes of a refused body that are read and dropped, so that its sender reads our answer
MAX_AT_ONCE = 96  # requests that are being answered; below the 128 from which on Serve itself sends callers away
MAX_CALLERS = 10_000  # whose rates are remembered


def api_keys(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The keys that both variables name now, for a command of this machine that calls the service itself."""
    listed = [key.strip() for key in environment.get(KEYS_VARIABLE, "").split(",") if key.strip()]
    file = environment.get(FILE_VARIABLE)
    return [*listed, *(_keys_in(Path(file)) if file else ())]


class Keys:
    """The API keys that callers may use. Those of a file change with it, at most a second later."""

    def __init__(self, keys: Iterable[str] = (), file: Path | None = None) -> None:
        """Raises `ConfigError` when the file can't be read or holds no key."""
        self._fixed, self._file = sorted(keys), file
        self._stamp, self._checked_at, self._digests = (0, 0, 0), -math.inf, [_digest(key) for key in self._fixed]
        if file is not None and not self._read():
            raise ConfigError(f"{FILE_VARIABLE}: {file} is to hold API keys, one a line; it can't be read or holds none")

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Self:
        file = environment.get(FILE_VARIABLE)
        return cls(api_keys({**environment, FILE_VARIABLE: ""}), Path(file) if file else None)

    def __bool__(self) -> bool:
        """Whether callers need a key at all. A file that has become empty lets nobody in, not everybody."""
        return bool(self._fixed) or self._file is not None

    def fingerprint(self) -> str:
        """The same as long as a running service need not be started again for its keys; "" without keys."""
        return hashlib.sha256("\n".join([*self._fixed, str(self._file)]).encode()).hexdigest() if self else ""

    def caller(self, authorization: str) -> str | None:
        """A name for the Bearer key of this header, None when it is none of ours. Every key is compared, in constant time."""
        if self._file is not None and time.monotonic() - self._checked_at > FILE_CHECKED_S:
            self._read()
        scheme, _, key = authorization.partition(" ")
        given = _digest(key.strip())
        known = sum(hmac.compare_digest(given, digest) for digest in self._digests) > 0
        return given.hex()[:8] if known and scheme.lower() == "bearer" else None

    def _read(self) -> bool:
        """Take in the file when it has changed; says whether it has keys. While it can't be read, those it had are good."""
        assert self._file is not None
        self._checked_at = time.monotonic()
        try:
            found = self._file.stat()
            if (stamp := (found.st_ino, found.st_mtime_ns, found.st_size)) != self._stamp:
                self._digests = [_digest(key) for key in [*self._fixed, *_keys_in(self._file)]]
                self._stamp = stamp
        except (OSError, UnicodeDecodeError):
            return False
        return len(self._digests) > len(self._fixed)


def check_exposure(address: str, keys: Keys) -> None:
    """Raises `ConfigError` when the service would be reachable from other machines without API keys."""
    if not keys and not is_loopback(address):
        raise ConfigError(
            f"the service would be open to everyone who can reach {address}: set {KEYS_VARIABLE} to one or more keys (or "
            f"{FILE_VARIABLE} to a file of them), or let it listen on 127.0.0.1 (serving.host)"
        )


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class TokenBuckets:
    """At most `rate` requests a second of each caller, a second's worth of them at once."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.most, self._clock = rate, max(1.0, rate), clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted; who asked last stands last

    def wait(self, caller: str) -> float:
        """Takes a token; when there is none, the seconds until there will be one."""
        now = self._clock()
        tokens, counted_at = self._buckets.pop(caller, (self.most, now))
        tokens = min(self.most, tokens + (now - counted_at) * self.rate)
        self._buckets[caller] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > MAX_CALLERS:
            del self._buckets[next(iter(self._buckets))]
        return 0.0 if tokens >= 1 else (1 - tokens) / self.rate


@dataclass
class RefusedError(Exception):
    """A request that is not answered otherwise than with this status and sentence."""

    status: int
    sentence: str
    headers: dict[str, str] = field(default_factory=dict)

    async def answer(self, send: Send) -> None:
        body = json.dumps({"error": self.sentence}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **self.headers}
        listed = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": listed})
        await send({"type": "http.response.body", "body": body})


class Guard:
    """ASGI middleware. `body_limits` gives the most bytes of a request body by path, `requests_per_s` may be None for no limit.

    A request has `timeout_s` until its answer begins; from then on (a video may play for long) it has neither limit nor place.
    """

    def __init__(
        self, app: ASGIApp, keys: Keys, body_limits: dict[str, int], requests_per_s: float | None, timeout_s: float
    ) -> None:
        self.app, self.keys, self.body_limits, self.timeout_s = app, keys, body_limits, timeout_s
        self.buckets = TokenBuckets(requests_per_s) if requests_per_s else None
        self.at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun = arrived = False

        async def begin(message: Message) -> None:
            nonlocal begun
            if not begun:
                begun = True
                self.at_once -= 1
                if not deadline.expired():
                    deadline.reschedule(None)
            await send(message)

        self.at_once += 1
        try:
            async with asyncio.timeout(self.timeout_s) as deadline:
                self._check(scope)
                if scope["method"] not in ("GET", "HEAD"):
                    limit = self.body_limits.get(scope["path"], MAX_ELSEWHERE)
                    receive = _replay(await _read_body(scope["path"], receive, limit), receive)
                arrived = True
                await self.app(scope, receive, begin)
        except RefusedError as refusal:
            await refusal.answer(send)
        except TimeoutError:
            if begun or not deadline.expired():
                raise
            late = f"this took more than {self.timeout_s:g} s; try again in a second"
            slow = f"the body did not arrive within {self.timeout_s:g} s"
            await (RefusedError(503, late, {"retry-after": "1"}) if arrived else RefusedError(408, slow)).answer(send)
        finally:
            if not begun:
                self.at_once -= 1

    def _check(self, scope: Scope) -> None:
        """Raises `RefusedError` for a request that may not pass."""
        headers = dict(scope["headers"])
        if not self.keys and (name := _host_name(headers.get(b"host", b"").decode("latin-1"))) not in LOOPBACK_NAMES:
            raise RefusedError(
                421,
                f"without API keys ({KEYS_VARIABLE}) this service answers only as localhost or 127.0.0.1, not as {name[:80]!r}; "
                "mind the Host header",
            )
        if scope["path"].startswith("/v1/"):
            self._check_caller(scope, headers.get(b"authorization", b"").decode("latin-1"))
        kind = headers.get(b"content-type", b"").decode("latin-1").split(";")[0].strip().lower()
        if scope["method"] == "POST" and scope["path"] in self.body_limits and kind != "application/json":
            raise RefusedError(415, f"send the body as 'Content-Type: application/json', not {kind or 'without a type'}")

    def _check_caller(self, scope: Scope, authorization: str) -> None:
        caller = (scope.get("client") or ("", 0))[0]
        if self.keys:
            caller = scope[CALLER] = self.keys.caller(authorization)
            if caller is None:
                sentence = "send one of the service's API keys as the header 'Authorization: Bearer KEY'"
                raise RefusedError(401, sentence, {"www-authenticate": "Bearer"})
        if self.buckets and (wait := self.buckets.wait(caller)):
            sentence = f"more than {self.buckets.rate:g} requests a second (serving.requests_per_s); try again in {wait:.2g} s"
            raise RefusedError(429, sentence, {"retry-after": str(math.ceil(wait))})
        if self.at_once > MAX_AT_ONCE:
            raise RefusedError(503, "the service has more to do than it can; try again in a second", {"retry-after": "1"})


def _keys_in(file: Path) -> list[str]:
    return [key for line in file.read_text().splitlines() if (key := line.strip())]


def _digest(key: str) -> bytes:
    """All of one length, so that comparing tells nothing about a key's length either."""
    return hashlib.sha256(key.encode()).digest()


def _host_name(host: str) -> str:
    """`localhost:8000` -> `localhost`, `[::1]:8000` -> `::1`."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()


async def _read_body(path: str, receive: Receive, limit: int) -> bytes:
    """The whole body. Raises `RefusedError` when it is larger than `limit`."""
    chunks, size = [], 0
    while size <= MAX_DRAINED:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        if not message.get("more_body", False):
            break
    if size > limit:
        raise RefusedError(413, f"the body is larger than the {limit:,} bytes that {path} takes")
    return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body in one message, then what `receive` has to say (that the client has gone)."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
