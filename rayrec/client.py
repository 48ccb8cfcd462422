"""Calls a running rayrec service from Python. It needs nothing but httpx.

    from rayrec.client import Client  # or `from rayrec_client`, if only the package rayrec-client is installed

    with Client("http://127.0.0.1:8000", key="...") as service:
        page = service.recommend("ann", k=10)
        seen = {"user_id": "ann", "video_id": page["videos"][0]["video_id"], "request_id": page["request_id"]}
        service.events([seen | {"kind": "watch", "watch_s": 4.5}, seen | {"kind": "click"}])

The methods of `AsyncClient` are the same, but are awaited. If the service is busy or can't be reached, or if the caller sends too
many requests (503, 429), a call is sent again after a pause, until `patience_s` seconds have passed. That is safe: events keep
their ids, so each counts once, and a page that was lost on its way counts as shown, so the next page holds other videos.
"""

import asyncio
import mimetypes
import os
import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, cast
from urllib.parse import quote

import httpx

from .errors import RayrecError  # relative, since client/pyproject.toml packs these three files alone
from .values import text_of

FIRST_PAUSE_S, MAX_PAUSE_S = 0.1, 5.0
VALUES = ("video_id", "author_id", "primary_class", "secondary_class")  # of a new video: compared by their canonical text
TRANSIENT = (429, 502, 503, 504)  # a load balancer in front of the service answers 502 and 504
Json = dict[str, Any]
Id = str | int  # of a user, a video or an author
Answer = TypeVar("Answer")


class ServiceError(RayrecError):
    """The service refused a call; the message is its own, `status` the HTTP status. The status is 0 if there was no answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(f"{status}: {sentence}" if status else sentence)
        self.status = status


@dataclass(frozen=True)
class Call:
    """One call. It keeps its id however often it is sent; the service's log names it by this id."""

    method: str
    path: str
    body: Json | list[Json] | None = None
    query: Json = field(default_factory=dict)
    file: bytes | None = None  # instead of a JSON body
    kind: str = ""  # the content type of the file
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def request(self) -> Json:
        """The arguments for httpx's `request`."""
        kind = {} if self.file is None else {"Content-Type": self.kind}
        return {
            "method": self.method,
            "url": self.path,
            "json": self.body,
            "content": self.file,
            "params": self.query,
            "headers": {"X-Request-Id": self.id, **kind},
        }


class _Methods(ABC, Generic[Answer]):
    """The calls that both clients offer."""

    @abstractmethod
    def _make(self, call: Call) -> Answer:
        """Returns the answer, or a coroutine that returns it."""

    def recommend(
        self,
        user_id: Id,
        k: int = 10,
        *,
        exclude: Sequence[Id] = (),
        blocked_authors: Sequence[Id] = (),
        context: Json | None = None,
        session_id: str | None = None,
        page_number: int | None = None,
        score: str | None = None,
        debug: bool = False,
    ) -> Answer:
        """Gets a page of k videos: `videos`, the best first, and the `request_id` and `arm` to be sent with their events.

        `session_id` names the visit that the page belongs to, and `page_number` its number in it; both go into the log. `score`
        is a formula of the ranker's goals instead of that of the config, for a trusted key, which `debug` also tells the predicted
        `goals` of each video.
        """
        body: Json = {"user_id": text_of(user_id), "k": k, "debug": debug}
        body |= {"exclude": [*map(text_of, exclude)], "blocked_authors": [*map(text_of, blocked_authors)]}
        more = {"session_id": session_id, "page_number": page_number, "score": score}
        body |= {name: value for name, value in more.items() if value is not None}
        return self._make(Call("POST", "/v1/recommend", body | {"context": _texts(context or {})}))

    def events(self, events: Sequence[Json]) -> Answer:
        """Sends up to 1000 events. By the time of the answer they are on the disk, except those in `refused`, each with a reason.

        Events without an event_id get a new one.
        """
        sent = [{"event_id": uuid.uuid4().hex, **event, **_texts(event, "user_id", "video_id")} for event in events]
        return self._make(Call("POST", "/v1/events", {"events": sent}))

    def search(
        self,
        text: str | None = None,
        *,
        picture: bytes | None = None,
        sound: bytes | None = None,
        k: int = 10,
        min_score: float | None = None,
        class_: str | None = None,
        author: Id | None = None,
        since: int | None = None,
    ) -> Answer:
        """Gets at most k videos that words, or the bytes of a picture's or a sound's file, find: `videos`, the best first.

        `since` is in UTC milliseconds. Raises `ValueError` unless there is just one query.
        """
        asked = [each for each in (text, picture, sound) if each is not None]
        if len(asked) != 1:
            raise ValueError("give either a text, a picture or a sound")
        filters: Json = {"class": class_, "author": None if author is None else text_of(author), "since": since}
        limits: Json = {"k": k, "min_score": min_score}
        if text is not None:
            return self._make(Call("POST", "/v1/search", {"text": text, "filters": filters} | limits))
        query = {name: value for name, value in (filters | limits).items() if value is not None}
        kind = "image/*" if sound is None else "audio/*"
        return self._make(Call("POST", "/v1/search", query=query, file=picture or sound, kind=kind))

    def similar(self, video_id: Id, k: int = 10) -> Answer:
        """Gets the k videos that are most similar to a video: `videos`, the most similar first."""
        return self._make(Call("GET", f"/v1/similar/{_in_path(video_id)}", query={"k": k}))

    def attention(self, video_id: Id, user_id: Id) -> Answer:
        """Gets where a user looks at the cover of a video: `places`, rows of shares, or else the `reason` why there are none."""
        return self._make(Call("GET", f"/v1/videos/{_in_path(video_id)}/attention", query={"user_id": text_of(user_id)}))

    def music(
        self,
        user_id: Id | None = None,
        *,
        video_id: Id | None = None,
        vectors: Mapping[str, Sequence[float]] | None = None,
        k: int = 10,
    ) -> Answer:
        """Gets at most k `tracks` for a video and a user, the best first; without a user, for the mean of all.

        The video is given by its id or by its features (`cover`, `motion`, `audio`, ...). Raises `ValueError` unless by just one.
        """
        if (video_id is None) == (vectors is None):
            raise ValueError("give either a video_id or vectors")
        body: Json = (
            {"video_id": text_of(video_id)}
            if vectors is None
            else {"vectors": {name: [float(number) for number in numbers] for name, numbers in vectors.items()}}
        )
        return self._make(Call("POST", "/v1/music", body | {"k": k} | ({} if user_id is None else {"user_id": text_of(user_id)})))

    def add_video(
        self,
        file: bytes | str | os.PathLike[str] | None = None,
        *,
        uri: str | None = None,
        content_type: str | None = None,
        wait: bool = True,
        tags: Sequence[str] = (),
        **facts: Any,
    ) -> Answer:
        """Adds a video: a file (its contents or its path), or the `uri` of one that the service may read, or neither.

        Without a file, the service needs the `video_id`, and `tags`, a title or a class.

        `facts` are `video_id`, `title`, `author_id`, `primary_class`, `secondary_class`, `cover_uri` and `published_at` (UTC ms).
        By the time of the answer the video may be in pages; without `wait`, its file is kept, and `video_status` tells the rest.
        """
        known = {name: value for name, value in facts.items() if value is not None}
        known |= _texts({name: value for name, value in known.items() if name in VALUES}) | ({"tags": list(tags)} if tags else {})
        query = {} if wait else {"wait": "false"}
        if file is None:
            return self._make(Call("POST", "/v1/videos", known | ({} if uri is None else {"uri": uri}), query))
        name, data = ("", file) if isinstance(file, bytes) else (os.fspath(file), Path(file).read_bytes())
        kind = content_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
        return self._make(Call("POST", "/v1/videos", query=known | query, file=data, kind=kind))

    def add_videos(self, videos: Iterable[Mapping[str, Any]], *, wait: bool = True) -> Answer:
        """Adds up to 100 videos that are not files of the caller's: each has a `video_id` and what `add_video` takes, or a `uri`.

        `videos` of the answer says of each what became of it, in the same order; those that are refused have an `error`. It raises
        if none can be taken. Videos with a `uri` take a moment each, so send them without `wait`.
        """
        known = [{name: value for name, value in video.items() if value is not None} for video in videos]
        rows = [row | _texts({name: value for name, value in row.items() if name in VALUES}) for row in known]
        return self._make(Call("POST", "/v1/videos", rows, {} if wait else {"wait": "false"}))

    def video_status(self, video_id: Id) -> Answer:
        """Gets what has become of a video that was added without waiting: `status` is ready, waiting or rejected."""
        return self._make(Call("GET", f"/v1/videos/{_in_path(video_id)}/status"))

    def put_users(self, users: Iterable[Mapping[str, Any]]) -> Answer:
        """Says what is known of users: each has a `user_id` and `fields`, which maps columns of the table of users to values."""
        known = [{"user_id": text_of(user["user_id"]), "fields": dict(user["fields"])} for user in users]
        return self._make(Call("POST", "/v1/users", {"users": known}))

    def user(self, user_id: Id) -> Answer:
        """Gets what the service knows about a user."""
        return self._make(Call("GET", f"/v1/users/{_in_path(user_id)}"))

    def forget(self, user_id: Id) -> Answer:
        """Deletes a user's events."""
        return self._make(Call("DELETE", f"/v1/users/{_in_path(user_id)}"))


class Client(_Methods[Json]):
    """Every method returns the answer's JSON, or raises `ServiceError`. Several threads may share a client."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout_s: float = 10.0,
        patience_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=url, headers=_headers(key), timeout=timeout_s, transport=transport, trust_env=not _is_loopback(url)
        )
        self._patience_s = patience_s

    def _make(self, call: Call) -> Json:
        async def send() -> httpx.Response:
            return self._http.request(**call.request())

        async def sleep(seconds: float) -> None:
            time.sleep(seconds)

        try:
            _answer(send, sleep, self._patience_s).send(None)  # runs to its end, since neither coroutine in it ever suspends
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
    """Has the methods of `Client`, which are awaited."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout_s: float = 10.0,
        patience_s: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=url, headers=_headers(key), timeout=timeout_s, transport=transport, trust_env=not _is_loopback(url)
        )
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
    """Sends a call until it is answered. Raises `ServiceError` if it is refused, or not answered in time."""
    give_up_at, pause = time.monotonic() + patience_s, FIRST_PAUSE_S
    while True:
        outcome: httpx.Response | httpx.TransportError
        try:
            outcome = await send()
        except httpx.TransportError as problem:
            outcome = problem
        if isinstance(outcome, httpx.Response) and outcome.status_code not in TRANSIENT:
            return _json_of(outcome)
        # Never sooner than the service asks for, and at another moment than other clients.
        seconds = _retry_after_s(outcome) + random.uniform(0.5, 1) * pause
        if time.monotonic() + seconds > give_up_at:
            if isinstance(outcome, httpx.Response):
                return _json_of(outcome)
            raise ServiceError(0, f"the service can't be reached: {outcome!r}") from outcome
        await sleep(seconds)
        pause = min(2 * pause, MAX_PAUSE_S)


def _json_of(response: httpx.Response) -> Json:
    """Returns the answer. Raises `ServiceError` if it is an error, or does not come from the service."""
    try:
        answer: Json = response.json()
    except ValueError:
        raise ServiceError(response.status_code, f"the answer is not JSON: {response.text[:200]!r}") from None
    if not response.is_success:
        raise ServiceError(response.status_code, str(answer.get("error", answer)))
    return answer


def _retry_after_s(outcome: httpx.Response | httpx.TransportError) -> float:
    """The seconds that Retry-After, a number or a date, asks to wait; 0 without it."""
    value = outcome.headers.get("Retry-After", "") if isinstance(outcome, httpx.Response) else ""
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _texts(values: Json, *names: str) -> Json:
    """The canonical text of these values, or of all: as the service's tables hold them, and also of NumPy's types."""
    return {name: text_of(value) for name, value in values.items() if not names or name in names}


def _in_path(value: Id) -> str:
    return quote(str(text_of(value)), safe="")


def _is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine. No proxy can reach it, whatever the environment says."""
    return httpx.URL(url).host in ("localhost", "127.0.0.1", "::1")


def _headers(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}
