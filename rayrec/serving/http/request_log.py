"""Logs each request as a line of JSON and counts it; gives it an id, and its answer the headers that make it safe to display.

Neither API keys nor user ids are logged: a request is named by its route, not by its path, and its caller by a digest of the key.
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

from rayrec.serving.http.auth import CALLER
from rayrec.serving.http.refusals import RefusedError
from rayrec.serving.metrics import Metrics

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)  # of the request being answered
ACCEPTED_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
PROBES = ("/healthz", "/readyz")
# The headers of every answer that does not set them itself.
SAFE_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
}

log = logging.getLogger(__name__)


class RequestLogMiddleware:
    """ASGI middleware around all other middleware. It logs an exception from inside with its trace and answers with a bare 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id, started, status = checked_request_id(scope), time.perf_counter(), 0
        REQUEST_ID.set(request_id)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                ours = [(name, value) for name, value in SAFE_HEADERS.items() if name not in given]
                if not given & {b"cache-control", b"etag"}:  # not a file: the answer is about a user, or about this moment
                    ours.append((b"cache-control", b"no-store"))
                message["headers"] = [*message["headers"], *ours, (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except Exception:
            log.exception("a request failed")
            if status:
                raise  # half of the answer has been sent: only closing the connection can tell the client
            await RefusedError(500, f"the service failed on this request; its log says why (request {request_id})").answer(answer)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """Counts and logs a request. `status` is 0 if the client left before it was answered."""
        route = getattr(scope.get("route"), "path_format", "other")
        self.metrics.count("requests_total", route=route, status=str(status))
        self.metrics.observe("request_seconds", seconds, route=route)
        level = logging.DEBUG if route in PROBES else logging.INFO
        if log.isEnabledFor(level):
            fields = {"method": scope["method"], "route": route, "status": status, "milliseconds": round(seconds * 1000, 3)}
            log.log(level, "request", extra={"fields": fields | ({"caller": scope[CALLER]} if scope.get(CALLER) else {})})


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON, with the id of the request that it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": REQUEST_ID.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_as_json() -> None:
    """Makes what rayrec logs in this process JSON lines on stderr (on Ray: in the worker's .err file)."""
    # The original stderr, because Serve replaces sys.stderr by one that inspects the stack for each line and adds words to it.
    handler, ours = logging.StreamHandler(sys.__stderr__), logging.getLogger("rayrec")
    handler.setFormatter(JsonLines())
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.INFO)


def checked_request_id(scope: Scope) -> str:
    """The caller's X-Request-Id if it is harmless, otherwise a new one."""
    given = dict(scope["headers"]).get(b"x-request-id", b"")
    return given.decode() if ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
