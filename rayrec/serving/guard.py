"""Who may ask, and how much at once: API keys, the Host header, content types and body sizes, before any route is reached.

Without API keys the service is for this machine alone. It then answers only requests whose Host header names the loopback, so that
a web page elsewhere can't reach it through a DNS name of its own that points here; and as every POST must be `application/json`, a
browser asks first (CORS preflight) before it sends one from another site, and gets no consent.
"""

import hashlib
import hmac
import ipaddress
import json
import os
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayrec.config import ConfigError

KEYS_VARIABLE = "RAYREC_API_KEYS"  # comma-separated; a caller sends one as "Authorization: Bearer KEY"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
MOST_ELSEWHERE = 64 * 2**10  # bytes of a body sent to a path that takes none
MOST_DRAINED = 16 * 2**20  # bytes of a refused body that are read and dropped, so that its sender reads our answer


def api_keys(environment: Mapping[str, str] = os.environ) -> list[str]:
    return [key.strip() for key in environment.get(KEYS_VARIABLE, "").split(",") if key.strip()]


def check_exposure(address: str, keys: list[str]) -> None:
    """Raises `ConfigError` when the service would be reachable from other machines without API keys."""
    if not keys and not is_loopback(address):
        raise ConfigError(
            f"the service would be open to everyone who can reach {address}: set {KEYS_VARIABLE} to one or more keys, or let it "
            "listen on 127.0.0.1 (serving.host)"
        )


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware. `body_limits` gives the most bytes of a request body by path."""

    def __init__(self, app: ASGIApp, keys: list[str], body_limits: dict[str, int]) -> None:
        self.app, self.body_limits = app, body_limits
        self.digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is None and scope["method"] not in ("GET", "HEAD"):
            limit = self.body_limits.get(scope["path"], MOST_ELSEWHERE)
            body = await _read_body(receive, limit)
            if body is None:
                refusal = 413, f"the body is larger than the {limit:,} bytes that {scope['path']} takes"
            else:
                receive = _replay(body, receive)
        if refusal is None:
            return await self.app(scope, receive, send)
        await _answer(send, *refusal)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """The status and the sentence for a request that may not pass."""
        if not self.digests and _host_name(headers.get("host", "")) not in LOOPBACK_NAMES:
            return (
                421,
                f"without API keys ({KEYS_VARIABLE}) this service answers only as localhost or 127.0.0.1; mind the Host header",
            )
        if self.digests and scope["path"].startswith("/v1/") and not self._knows(headers.get("authorization", "")):
            return 401, "send one of the service's API keys as the header 'Authorization: Bearer KEY'"
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if scope["method"] == "POST" and scope["path"] in self.body_limits and kind != "application/json":
            return 415, f"send the body as 'Content-Type: application/json', not {kind or 'without a type'}"
        return None

    def _knows(self, authorization: str) -> bool:
        """Whether a Bearer key is one of ours. Every key is compared, in constant time."""
        scheme, _, key = authorization.partition(" ")
        given = _digest(key.strip())
        return sum(hmac.compare_digest(given, known) for known in self.digests) > 0 and scheme.lower() == "bearer"


def _digest(key: str) -> bytes:
    """All of one length, so that comparing tells nothing about a key's length either."""
    return hashlib.sha256(key.encode()).digest()


def _host_name(host: str) -> str:
    """`localhost:8000` -> `localhost`, `[::1]:8000` -> `::1`."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None when it is larger than `limit`."""
    chunks, size = [], 0
    while size <= MOST_DRAINED:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        if not message.get("more_body", False):
            break
    return b"".join(chunks) if size <= limit else None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body in one message, then what `receive` has to say (that the client has gone)."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
