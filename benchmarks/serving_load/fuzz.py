"""Malformed requests: from the OpenAPI document (schemathesis), and bytes, headers, paths and sizes of our own."""

import asyncio
import json
import random
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from serving_load.client import CLOSED, HUNG, UNDOCUMENTED_503

AT_ONCE = 64  # connections
TIMEOUT_S = 20.0
PATIENCE_S = 2.0  # for an answer to a request that may be incomplete; to HAProxy, a caller who ends its side has gone
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closed with a reset, so that no port waits for the other side
ROUTES = ("/v1/recommend", "/v1/events")
NOW_MS = int(time.time() * 1000)
GOOD_BODIES = (
    {"user_id": "u1", "k": 5, "exclude": ["v1"]},
    {"events": [{"event_id": "fuzz", "user_id": "u1", "video_id": "v1", "kind": "click", "at": NOW_MS, "watch_s": 1.0}]},
)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e400, float("nan"), 2**63, 10**400, "", "\x00", "\ud800", "x" * 600, "u1\r\nX: y", [], [[]],
    [None] * 2000, {}, {"": {}},
)  # fmt: skip
HEADERS = (
    "Content-Length: -1", "Content-Length: 99999999999999999999", "Content-Length: 5\r\nContent-Length: 6",
    "Content-Encoding: gzip", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Connection: close, keep-alive",
    "Upgrade: websocket\r\nConnection: Upgrade", "Host: evil.example", "Host:", "Expect: 100-continue",
    "Content-Type: text/plain", "Content-Type:", "Authorization: Bearer \xff", "X-Request-Id: " + "a" * 5000,
    "X-Request-Id: \x01", "Range: bytes=-1-5,9-", ": empty", "no colon", "X-\x00: y", " folded: yes",
    "Cookie: " + "a=b;" * 3000, "X: " + "z" * 100_000, "Accept: " + "*/*," * 500, "Retry-After: never",
)  # fmt: skip
PATHS = (
    "", "*", "/", "//", "/%", "relative", "http://evil.example/v1/topics", "/../../etc/passwd", "/page/../../api.py",
    "/page/%2e%2e/%2e%2e/api.py", "/docs/..", "/openapi.json/", "/metrics/../v1/dashboard?" + "&" * 1000, "/v1/\u2603",
    "/v1/topics#x", "/v1/videos/%00", "/v1/videos/%ff/file", "/v1/videos/..%2f..%2fetc/cover", "/v1/videos/" + "a" * 5000,
    "/v1/users/", "/v1/users/%E2%98%83", "/v1/similar/v1?k=NaN", "/v1/similar/v1?k=-1", "/v1/withdrawn/", "/v1/recommend/",
    "/v1/recommend?k=" + "9" * 3000,
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "PO ST", "X" * 300, "", "\x00")


def own_requests(port: int, count: int, seed: int, address: str = "127.0.0.1") -> Counter[int]:
    """Send `count` malformed requests and count the statuses of their answers."""
    return asyncio.run(_send_all(address, port, count, random.Random(seed)))


async def _send_all(address: str, port: int, count: int, rng: random.Random) -> Counter[int]:
    statuses: Counter[int] = Counter()

    async def worker(number: int) -> None:
        for _ in range(number, count, AT_ONCE):
            request = make(rng)
            try:
                statuses[await asyncio.wait_for(_send(address, port, request), TIMEOUT_S)] += 1
            except TimeoutError:
                statuses[HUNG] += 1

    await asyncio.gather(*(worker(number) for number in range(AT_ONCE)))
    return statuses


async def _send(address: str, port: int, request: bytes) -> int:
    """The status of the answer, CLOSED for none."""
    writer = None
    try:
        reader, writer = await asyncio.open_connection(address, port)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.write(request)
        try:
            head = await asyncio.wait_for(reader.read(1 << 16), PATIENCE_S)
        except TimeoutError:
            writer.write_eof()  # what was announced does not come
            head = await reader.read(1 << 16)
        while head.startswith(b"HTTP/1.1 100"):  # go on, says HAProxy, and the replica again; what follows may have come along
            head = head.partition(b"\r\n\r\n")[2] or await reader.read(1 << 16)
        status = re.match(rb"HTTP/1\.\d (\d\d\d)", head)
        found = int(status[1]) if status else CLOSED
        return UNDOCUMENTED_503 if found == 503 and b"retry-after:" not in head.lower() else found
    except (OSError, asyncio.IncompleteReadError):
        return CLOSED
    finally:
        if writer:
            writer.transport.abort()


def make(rng: random.Random) -> bytes:
    """A request that is wrong in one way at least, most of the time."""
    kind: Callable[[random.Random], bytes] = rng.choice(
        (_wrong_json, _wrong_json, _wrong_value, _wrong_value, _wrong_head, _wrong_path, _noise)
    )
    return kind(rng)


def _request(method: str, path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *headers]
    if not any(header.lower().startswith("host") for header in headers):
        lines.append("Host: localhost")
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def _good_body(rng: random.Random) -> tuple[str, dict]:
    number = rng.randrange(len(ROUTES))
    return ROUTES[number], json.loads(json.dumps(GOOD_BODIES[number]))


def _wrong_value(rng: random.Random) -> bytes:
    path, body = _good_body(rng)
    target = body["events"][0] if "events" in body and rng.random() < 0.8 else body
    key = rng.choice([*target, "", "user", "__proto__", "debug", "context"])
    if rng.random() < 0.3:
        target.pop(key, None)
    else:
        target[key] = rng.choice(VALUES)
    return _request("POST", path, json.dumps(body).encode(), "Content-Type: application/json")


def _wrong_json(rng: random.Random) -> bytes:
    path, good = _good_body(rng)
    body = bytearray(json.dumps(good).encode())
    match rng.randrange(6):
        case 0:
            body = body[: rng.randrange(len(body))]
        case 1:
            for _ in range(rng.randrange(1, 6)):
                body[rng.randrange(len(body))] = rng.randrange(256)
        case 2:
            body = bytearray(rng.randbytes(rng.randrange(2000)))
        case 3:
            depth = rng.choice((10, 1000, 30_000))
            body = bytearray(rng.choice((b"[", b'{"a":')) * depth)
        case 4:
            body = body + bytearray(b" " * rng.choice((1, 70_000, 2_000_000)))
        case 5:
            body = bytearray(rng.choice((b"null", b"1", b'""', b"[]", b"NaN", b"\xef\xbb\xbf{}", b"9" * 10_000, b'{"k":1,"k":2}')))
    return _request("POST", path, bytes(body), "Content-Type: application/json")


def _wrong_head(rng: random.Random) -> bytes:
    path, body = _good_body(rng)
    headers = [rng.choice(HEADERS) for _ in range(rng.choice((1, 1, 2, 120)))]
    return _request(rng.choice(METHODS), path, json.dumps(body).encode(), "Content-Type: application/json", *headers)


def _wrong_path(rng: random.Random) -> bytes:
    path = rng.choice(PATHS)
    if rng.random() < 0.5:
        path += rng.choice(("?", "/", "%", "\\", ";", "&")) + rng.randbytes(rng.randrange(1, 20)).decode("latin-1").replace(
            "\n", ""
        )
    return _request(rng.choice(METHODS), path, b"")


def _noise(rng: random.Random) -> bytes:
    line = rng.choice(
        (
            b"",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /\r\n\r\n",
            b"POST /v1/events HTTP/1.1\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            b"\r\n" * 50,
        )
    )
    return line + rng.randbytes(rng.randrange(1, 3000))


def from_the_openapi_document(url: str, count: int, seed: int) -> Counter[int]:
    """About `count` requests that break the document in some way, shared by its operations; the statuses of the answers."""
    import schemathesis

    statuses: Counter[int] = Counter()
    operations = [found.ok() for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()]
    for operation in operations:
        statuses.update(_break(operation, max(count // len(operations), 1), seed))
    return statuses


def _break(operation: Any, count: int, seed: int) -> Counter[int]:
    """Send requests that break what the document says of an operation, or, where nothing can, strange ones that don't."""
    import hypothesis
    from schemathesis import GenerationMode

    limits = hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    statuses: Counter[int] = Counter()

    def send(case: Any) -> None:
        try:
            answer = case.call(timeout=TIMEOUT_S)
        except OSError:  # as those of requests are
            statuses[CLOSED] += 1
            return
        documented = answer.status_code != 503 or "retry-after" in answer.headers
        statuses[answer.status_code if documented else UNDOCUMENTED_503] += 1

    for mode in (GenerationMode.NEGATIVE, GenerationMode.POSITIVE):
        cases = operation.as_strategy(generation_mode=mode)
        try:
            hypothesis.seed(seed)(limits(hypothesis.given(case=cases)(send)))()
            break
        except hypothesis.errors.Unsatisfiable:
            continue
    return statuses
