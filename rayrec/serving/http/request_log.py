"""What is told of each request: an id that goes in and out, a line of JSON in the log, numbers, and headers that make answers safe.

Neither API keys nor user ids are logged: a request is named by its route, not by its path, and its caller by a digest of its key.
"""

import json
import logging
import re
import sys
import time
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayrec.serving.http.auth import CALLER, RefusedError
from rayrec.serving.metrics import Metrics

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)  # of the request being answered
GOOD_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
PROBES = ("/healthz", "/readyz")
# Of every answer that does not say otherwise.
SAFE_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
}

log = logging.getLogger(__name__)


class RequestLogMiddleware:
    """ASGI middleware, around all others. What fails inside is logged with its trace and answered with a bare 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id, started, status = _request_id(scope), time.perf_counter(), 0
        REQUEST_ID.set(request_id)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                ours = [(name, value) for name, value in SAFE_HEADERS.items() if name not in given]
                if not given & {b"cache-control", b"etag"}:  # no file: it speaks of a user, or of now
                    ours.append((b"cache-control", b"no-store"))
                message["headers"] = [*message["headers"], *ours, (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except Exception:
            log.exception("a request failed")
            if status:
                raise  # half an answer is out already: only the connection's end can tell
            await RefusedError(500, f"the service failed on this request; its log says why (request {request_id})").answer(answer)
        finally:
            self._tell(scope, status, time.perf_counter() - started)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        """`status` is 0 for a request whose client went away before it was answered."""
        route = getattr(scope.get("route"), "path_format", "other")
        self.metrics.count("requests_total", route=route, status=str(status))
        self.metrics.observe("request_seconds", seconds, route=route)
        level = logging.DEBUG if route in PROBES else logging.INFO
        if log.isEnabledFor(level):
            facts = {"method": scope["method"], "route": route, "status": status, "milliseconds": round(seconds * 1000, 3)}
            log.log(level, "request", extra={"facts": facts | ({"caller": scope[CALLER]} if scope.get(CALLER) else {})})


class JsonLines(logging.Formatter):
    """A record as one line of JSON, with the id of the request it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": REQUEST_ID.get(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_as_json() -> None:
    """Make what rayrec logs in this process JSON lines on stderr (on Ray: in the worker's .err file)."""
    # The process's own stderr: Serve puts another in its place, which looks through the stack for each line and adds words to it.
    handler, ours = logging.StreamHandler(sys.__stderr__), logging.getLogger("rayrec")
    handler.setFormatter(JsonLines())
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.INFO)


def _request_id(scope: Scope) -> str:
    """The caller's X-Request-Id when it is a harmless one, else a new one."""
    given = dict(scope["headers"]).get(b"x-request-id", b"")
    return given.decode() if GOOD_ID.fullmatch(given) else uuid.uuid4().hex
