"""Requests to a service on virtual hosts, one after the other through each of several hosts, while something happens there."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import httpx

PAUSE_S = 0.2


@dataclass
class Answer:
    """What came of one request."""

    host: str
    at: float  # s, when it was sent
    seconds: float
    status: int  # 0 if there was no answer
    retry_after: bool = False

    @property
    def documented(self) -> bool:
        """Whether it is a page, or a refusal that says when to come back."""
        return self.status == 200 or (self.status == 503 and self.retry_after)


@dataclass
class Load:
    """All answers so far."""

    answers: list[Answer] = field(default_factory=list)

    def since(self, at: float) -> list[Answer]:
        return [answer for answer in self.answers if answer.at >= at]

    def of(self, status: int) -> int:
        return sum(answer.status == status for answer in self.answers)


@contextmanager
def load(client: Callable[[str], httpx.Client], hosts: Sequence[str]) -> Iterator[Load]:
    """Asks for pages through each of the hosts for as long as the block runs, each for another user."""
    found, ended, users = Load(), threading.Event(), count()

    def ask(host: str) -> None:
        with client(host) as service:
            while not ended.is_set():
                found.answers.append(_ask(service, host, f"visitor-{next(users)}"))
                ended.wait(PAUSE_S)

    threads = [threading.Thread(target=ask, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _ask(service: httpx.Client, host: str, user: str) -> Answer:
    at = time.monotonic()
    try:
        answer = service.post("/v1/recommend", json={"user_id": user, "k": 5})
    except httpx.HTTPError:
        return Answer(host, at, time.monotonic() - at, 0)
    return Answer(host, at, time.monotonic() - at, answer.status_code, "Retry-After" in answer.headers)
