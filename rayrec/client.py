"""Calls to a running rayrec service from Python; needs httpx and nothing else of rayrec.

    from rayrec.client import Client

    with Client("http://127.0.0.1:8000", key="...") as service:
        page = service.recommend("ann", k=10)
        seen = {"user_id": "ann", "video_id": page["videos"][0]["video_id"], "request_id": page["request_id"]}
        service.events([seen | {"kind": "watch", "watch_s": 4.5}, seen | {"kind": "click"}])

`AsyncClient` has the same methods, to be awaited. Where the service is busy, out of reach or asks for patience (503, 429), a call
is sent again after a pause, until `patience_s` are over. That is safe: events keep their ids, so each counts once; a page that
was lost on its way counts as shown, and the next one holds other videos.
"""

import asyncio
import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Self, TypeVar, cast
from urllib.parse import quote

import httpx

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
PASSING = (429, 502, 503, 504)  # 502 and 504 are those of a load balancer in front
Json = dict[str, Any]
Answer = TypeVar("Answer")


class ServiceError(Exception):
    """What the service refused, in its words, with the HTTP status; 0 when there was no answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(f"{status}: {sentence}" if status else sentence)
        self.status = status


@dataclass(frozen=True)
class Call:
    """One call; every time it is sent it bears the same id, by which the service's log names it."""

    method: str
    path: str
    body: Json | None = None
    query: Json = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def request(self) -> Json:
        """The arguments of httpx's `request`."""
        return {
            "method": self.method,
            "url": self.path,
            "json": self.body,
            "params": self.query,
            "headers": {"X-Request-Id": self.id},
        }


class _Methods(ABC, Generic[Answer]):
    """The calls, whichever way they are made."""

    @abstractmethod
    def _make(self, call: Call) -> Answer:
        """The answer, or what is awaited for it."""

    def recommend(
        self,
        user_id: str,
        k: int = 10,
        *,
        exclude: Sequence[str] = (),
        blocked_authors: Sequence[str] = (),
        context: Json | None = None,
        debug: bool = False,
    ) -> Answer:
        """A page of k videos: `videos`, the best first, and the `request_id` and `arm` that their events are to bear."""
        body = {"user_id": user_id, "k": k, "exclude": [*exclude], "blocked_authors": [*blocked_authors]}
        return self._make(Call("POST", "/v1/recommend", body | {"context": context or {}, "debug": debug}))

    def events(self, events: Sequence[Json]) -> Answer:
        """Hand in up to 1000 events; when this is answered they are on the disk, but for those that are `refused` (unknown videos).

        Events without an event_id get one.
        """
        return self._make(Call("POST", "/v1/events", {"events": [{"event_id": uuid.uuid4().hex, **event} for event in events]}))

    def similar(self, video_id: str, k: int = 10) -> Answer:
        return self._make(Call("GET", f"/v1/similar/{quote(video_id, safe='')}", query={"k": k}))

    def user(self, user_id: str) -> Answer:
        """What is known of a user."""
        return self._make(Call("GET", f"/v1/users/{quote(user_id, safe='')}"))

    def forget(self, user_id: str) -> Answer:
        """Delete a user's events."""
        return self._make(Call("DELETE", f"/v1/users/{quote(user_id, safe='')}"))


class Client(_Methods[Json]):
    """Every method returns the answer's JSON; raises `ServiceError` when there is none. May be used by several threads."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout_s: float = 10.0,
        patience_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(base_url=url, headers=_headers(key), timeout=timeout_s, transport=transport)
        self._patience_s = patience_s

    def _make(self, call: Call) -> Json:
        async def send() -> httpx.Response:
            return self._http.request(**call.request())

        async def sleep(seconds: float) -> None:
            time.sleep(seconds)

        try:
            _answer(send, sleep, self._patience_s).send(None)  # runs to its end, as nothing in it is ever waited for
        except StopIteration as end:
            return cast(Json, end.value)
        raise AssertionError("unreachable")

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Methods[Coroutine[Any, Any, Json]]):
    """The methods of `Client`, to be awaited."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout_s: float = 10.0,
        patience_s: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(key), timeout=timeout_s, transport=transport)
        self._patience_s = patience_s

    async def _make(self, call: Call) -> Json:
        return await _answer(lambda: self._http.request(**call.request()), asyncio.sleep, self._patience_s)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _answer(
    send: Callable[[], Awaitable[httpx.Response]], sleep: Callable[[float], Awaitable[None]], patience_s: float
) -> Json:
    """Send until there is an answer, or no more patience. Raises `ServiceError`."""
    give_up_at, pause = time.monotonic() + patience_s, FIRST_PAUSE_S
    while True:
        outcome: httpx.Response | httpx.TransportError
        try:
            outcome = await send()
        except httpx.TransportError as problem:
            outcome = problem
        if isinstance(outcome, httpx.Response) and outcome.status_code not in PASSING:
            return _json_of(outcome)
        # Not all clients at the same moment; never sooner than the service asks for.
        seconds = _asked_for(outcome) + random.uniform(0.5, 1) * pause
        if time.monotonic() + seconds > give_up_at:
            if isinstance(outcome, httpx.Response):
                return _json_of(outcome)
            raise ServiceError(0, f"the service can't be reached: {outcome!r}") from outcome
        await sleep(seconds)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _json_of(response: httpx.Response) -> Json:
    """The answer. Raises `ServiceError` when it is an error, or none of ours."""
    try:
        answer: Json = response.json()
    except ValueError:
        raise ServiceError(response.status_code, f"the answer is no JSON: {response.text[:200]!r}") from None
    if not response.is_success:
        raise ServiceError(response.status_code, str(answer.get("error", answer)))
    return answer


def _asked_for(outcome: httpx.Response | httpx.TransportError) -> float:
    """The seconds of Retry-After, which may be a date as well."""
    value = outcome.headers.get("Retry-After", "") if isinstance(outcome, httpx.Response) else ""
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _headers(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}
