"""Sends the requests of one replica to the rankers, several in one call: most of what a call costs is the call.

A request does not wait for others while few calls are under way. While the rankers are busy, those that arrive wait for the next
call, so that calls hold more requests the more there are.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from rayrec.serving.recommender import OverloadedError

MAX_BATCH = 8  # requests ranked in one forward pass
CALLS = 2  # under way before requests wait for each other: one that is ranked, and one that is next
WAIT_S = 0.25  # if no call has ended for so long, rankers may hang, and one call more is made

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class RankCalls(Generic[Request, Answer]):
    """Hands requests to `call`, which takes up to `MAX_BATCH` of them and returns the answer to each. For one event loop."""

    def __init__(self, call: Callable[[list[Request]], Awaitable[Sequence[Answer]]]) -> None:
        self._call = call
        self._waiting: list[tuple[Request, asyncio.Future[Answer]]] = []
        self._under_way = set[asyncio.Task[None]]()
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, request: Request) -> Answer:
        """Raises what the call of this request raises, as do its other requests; `OverloadedError` if it was cancelled."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((request, answer))
        if len(self._waiting) in (1, MAX_BATCH):
            loop.call_soon(self._send)  # with those that other tasks ask in this turn of the event loop
        return await answer

    def _send(self, late: bool = False) -> None:
        """Makes the calls that may be made now, and one more if those under way take too long."""
        while self._waiting and (late or len(self._under_way) < CALLS or len(self._waiting) >= MAX_BATCH):
            together, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            if wanted := [each for each in together if not each[1].done()]:  # nobody waits any longer for the others
                # Not in the context of one of the requests: with its client, Serve would cancel the calls of the others.
                task = asyncio.create_task(self._carry_out(wanted), context=Context())
                self._under_way.add(task)
                task.add_done_callback(self._ended)
                late = False
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WAIT_S, self._late)

    def _late(self) -> None:
        self._timer = None
        self._send(late=True)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        if self._timer is not None:  # anew from here on
            self._timer.cancel()
            self._timer = None
        self._send()

    async def _carry_out(self, together: list[tuple[Request, "asyncio.Future[Answer]"]]) -> None:
        try:
            answers = await self._call([request for request, _ in together])
            for (_, waiting), answer in zip(together, answers, strict=True):
                if not waiting.done():
                    waiting.set_result(answer)
        except (Exception, asyncio.CancelledError) as problem:
            # A request that was not cancelled itself must not look as if it had been.
            raised = problem if isinstance(problem, Exception) else OverloadedError("the call to the ranker was cancelled")
            for _, waiting in together:
                if not waiting.done():
                    waiting.set_exception(raised)
