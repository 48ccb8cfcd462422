"""How requests share calls to the rankers."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from rayrec.serving.rank_calls import CALLS, MAX_BATCH, WAIT_S, RankCalls
from rayrec.serving.recommender import OverloadedError


class Ranker:
    """Answers each number with its double, when it is let."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.open = asyncio.Event()

    async def rank(self, requests: list[int]) -> Sequence[int]:
        self.calls.append(requests)
        await self.open.wait()
        if 0 in requests:
            raise ValueError("there is no 0")
        return [2 * request for request in requests]


async def ask(calls: RankCalls[int, int], *requests: int) -> list["asyncio.Task[int]"]:
    """One after the other, each in a turn of its own."""
    asked = []
    for request in requests:
        asked.append(asyncio.create_task(calls.ask(request)))
        for _ in range(3):
            await asyncio.sleep(0)
    return asked


def test_requests_wait_for_each_other_only_while_calls_are_under_way() -> None:
    async def walk() -> None:
        ranker = Ranker()
        calls = RankCalls(ranker.rank)
        asked = await ask(calls, *range(1, CALLS + 4))
        alone = [[number] for number in range(1, CALLS + 1)]
        assert ranker.calls == alone
        ranker.open.set()
        assert await asyncio.gather(*asked) == [2 * number for number in range(1, CALLS + 4)]
        assert ranker.calls == [*alone, list(range(CALLS + 1, CALLS + 4))]
        ranker.calls.clear()
        assert await asyncio.gather(*(calls.ask(number) for number in range(1, 4))) == [2, 4, 6]
        assert ranker.calls == [[1, 2, 3]]  # of one turn of the event loop

    asyncio.run(walk())


def test_a_full_call_waits_for_no_other_and_no_call_is_more_than_full() -> None:
    async def walk() -> None:
        ranker = Ranker()
        asked = await ask(RankCalls(ranker.rank), *range(1, CALLS + 2 * MAX_BATCH + 2))
        assert [len(call) for call in ranker.calls] == [1] * CALLS + [MAX_BATCH] * 2
        ranker.open.set()
        assert await asyncio.gather(*asked) == [2 * number for number in range(1, CALLS + 2 * MAX_BATCH + 2)]

    asyncio.run(walk())


def test_a_call_that_hangs_does_not_hold_up_the_others() -> None:
    async def walk() -> None:
        ranker = Ranker()
        asked = await ask(RankCalls(ranker.rank), *range(1, CALLS + 3))
        await asyncio.sleep(2 * WAIT_S)
        assert ranker.calls[CALLS:] == [[CALLS + 1, CALLS + 2]]
        for task in asked:
            task.cancel()

    asyncio.run(walk())


def test_a_slow_ranker_gets_fuller_calls_and_no_more_of_them() -> None:
    async def walk() -> None:
        calls, under_way, most = list[list[int]](), 0, 0

        async def rank(requests: list[int]) -> list[int]:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            calls.append(requests)
            await asyncio.sleep(0.6 * WAIT_S)
            under_way -= 1
            return requests

        together, asked = RankCalls(rank), []
        for number in range(24):
            asked.append(asyncio.create_task(together.ask(number)))
            await asyncio.sleep(0.1 * WAIT_S)
        assert await asyncio.gather(*asked) == list(range(24))
        assert most == CALLS
        assert len(calls) < 12

    asyncio.run(walk())


def test_a_call_that_is_cancelled_is_an_error_of_its_requests_which_share_no_context() -> None:
    whose = ContextVar("whose", default="nobody's")
    seen = []

    async def rank(requests: list[int]) -> list[int]:
        seen.append(whose.get())
        raise asyncio.CancelledError

    async def walk() -> None:
        whose.set("mine")
        calls = RankCalls(rank)
        found = await asyncio.gather(*(calls.ask(number) for number in range(3)), return_exceptions=True)
        assert [type(each) for each in found] == [OverloadedError] * 3

    asyncio.run(walk())
    assert seen == ["nobody's"]


def test_an_error_is_that_of_its_call_alone_and_who_has_gone_is_not_asked_for() -> None:
    async def walk() -> None:
        ranker = Ranker()
        calls = RankCalls(ranker.rank)
        first = await ask(calls, *range(1, CALLS + 1))
        waiting = await ask(calls, 0, 7, 8)
        waiting[2].cancel()
        ranker.open.set()
        assert await asyncio.gather(*first) == [2 * number for number in range(1, CALLS + 1)]
        for task in waiting[:2]:
            with pytest.raises(ValueError, match="there is no 0"):
                await task
        assert ranker.calls[-1] == [0, 7]
        assert await calls.ask(9) == 18

    asyncio.run(walk())
