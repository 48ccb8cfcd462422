"""How much a caller may ask for: requests per second, requests at once, content types, body sizes, and time."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayrec.serving.http.auth import CALLER
from rayrec.serving.http.refusals import RefusedError

DEFAULT_BODY_LIMIT = 64 * 2**10  # bytes of a body that is sent to a path without a limit of its own
MAX_DRAINED = 16 * 2**20  # bytes of a refused body that are read and discarded, so that its sender gets to read the answer
MAX_AT_ONCE = 96  # requests being answered; below 128, from where on Serve itself sends callers away
MAX_CALLERS = 10_000  # whose rates are remembered
JSON = "application/json"
UNLIMITED = "/healthz"  # does no work, and must answer while the service is busy


class TokenBuckets:
    """Allows each caller `rate` requests per second, and a burst of as many as one second allows."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.capacity, self._clock = rate, max(1.0, rate), clock
        # Of each caller the tokens and when they were counted; the caller that asked last is the last one.
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait(self, caller: str) -> float:
        """Takes a token and returns 0; if there is none, returns the seconds until there will be one."""
        now = self._clock()
        tokens, counted_at = self._buckets.pop(caller, (self.capacity, now))
        tokens = min(self.capacity, tokens + (now - counted_at) * self.rate)
        self._buckets[caller] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > MAX_CALLERS:
            del self._buckets[next(iter(self._buckets))]
        return 0.0 if tokens >= 1 else (1 - tokens) / self.rate


class FileLimits(NamedTuple):
    """What holds for the bodies of a path that takes files as well as JSON."""

    max_bytes: int
    kinds: tuple[str, ...]  # how their content types begin; a browser asks before it sends one of them from another site
    timeout_s: float
    at_once: int  # requests with a body that are read and answered at a time
    json_bytes: int = DEFAULT_BODY_LIMIT  # of a body of JSON


class LimitsMiddleware:
    """ASGI middleware that refuses requests beyond the limits. It comes after `AuthMiddleware`, which names the caller.

    `body_limits` holds the maximum size of a body, in bytes, by path; bodies that are posted to these paths must be JSON. `files`
    has the paths that take files, too. If `requests_per_s` is None, the rate is unlimited. A request has `timeout_s` until its
    answer begins. From then on it has no time limit and no longer counts as being answered, since a video may play for a long time.
    """

    def __init__(
        self,
        app: ASGIApp,
        body_limits: Mapping[str, int],
        requests_per_s: float | None,
        timeout_s: float,
        files: Mapping[str, FileLimits] | None = None,
    ) -> None:
        self.app, self.body_limits, self.timeout_s, self.files = app, body_limits, timeout_s, files or {}
        self.buckets = TokenBuckets(requests_per_s) if requests_per_s else None
        self.at_once = 0
        self.files_at_once = dict.fromkeys(self.files, 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path, files = scope["path"], self.files.get(scope["path"]) if scope["method"] == "POST" else None
        timeout_s = files.timeout_s if files else self.timeout_s
        begun = arrived = taken = False

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
            async with asyncio.timeout(timeout_s) as deadline:
                self._check(scope, files)
                if files:
                    self.files_at_once[path] += 1
                    taken = True
                if scope["method"] not in ("GET", "HEAD"):
                    limit = self.body_limits.get(path, DEFAULT_BODY_LIMIT)
                    if files:
                        limit = files.json_bytes if _kind(scope) == JSON else files.max_bytes
                    receive = _replay(await _read_body(path, receive, limit), receive)
                arrived = True
                await self.app(scope, receive, begin)
        except RefusedError as refusal:
            await refusal.answer(send)
        except TimeoutError:
            if begun or not deadline.expired():
                raise
            late = f"the request took longer than {timeout_s:g} s; try again in a second"
            slow = f"the body did not arrive within {timeout_s:g} s"
            await (RefusedError(503, late, {"retry-after": "1"}) if arrived else RefusedError(408, slow)).answer(send)
        finally:
            if not begun:
                self.at_once -= 1
            if taken:
                self.files_at_once[path] -= 1

    def _check(self, scope: Scope, files: FileLimits | None) -> None:
        """Raises `RefusedError` for a request that is over a limit, or whose body is not declared to be what the path takes."""
        if scope["path"] != UNLIMITED:
            self._check_rate(scope.get(CALLER) or (scope.get("client") or ("", 0))[0])
        kind = _kind(scope)
        if scope["method"] == "POST" and scope["path"] in self.body_limits and kind != JSON:
            found = f"not {kind}" if kind else "as the request names no type"
            raise RefusedError(415, f"send the body as 'Content-Type: {JSON}', {found}")
        if files and not kind.startswith(files.kinds):
            found = f"not {kind}" if kind else "as the request names no type"
            kinds = ", ".join(f"{each}*" if each.endswith("/") else each for each in files.kinds)
            raise RefusedError(415, f"send the body with a Content-Type of {kinds}, {found}")
        if files and self.files_at_once[scope["path"]] >= files.at_once:
            raise RefusedError(503, "too many files are being sent; try again in a second", {"retry-after": "1"})

    def _check_rate(self, caller: str) -> None:
        if self.buckets and (wait := self.buckets.wait(caller)):
            sentence = f"you sent more than {self.buckets.rate:g} requests per second (serving.requests_per_s); wait {wait:.2g} s"
            raise RefusedError(429, sentence, {"retry-after": str(math.ceil(wait))})
        if self.at_once > MAX_AT_ONCE:
            raise RefusedError(503, "the service is overloaded; try again in a second", {"retry-after": "1"})


def _kind(scope: Scope) -> str:
    """The content type of the body, without its parameters; "" if the request names none."""
    return dict(scope["headers"]).get(b"content-type", b"").decode("latin-1").split(";")[0].strip().lower()


async def _read_body(path: str, receive: Receive, limit: int) -> bytes:
    """Returns the whole body. Raises `RefusedError` if it is larger than `limit` bytes, or if its sender left before its end."""
    chunks, size = [], 0
    while size <= max(limit, MAX_DRAINED):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the body did not arrive completely")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        if not message.get("more_body", False):
            break
    if size > limit:
        raise RefusedError(413, f"the body is larger than the {limit:,} bytes that {path} accepts")
    return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body in one message, then passes on what `receive` gives (that the client has gone)."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
