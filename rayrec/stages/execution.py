"""Where the pieces of a stage's work are done: in this process, or, for a large log, by Ray's workers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from rayrec.config import Config

ALONE_ROWS = 20_000_000  # of the log, which one process works through sooner than Ray has started others

Result = TypeVar("Result")
# Does pieces of work, in any order, and yields the index of each with its result.
Executor = Callable[[Sequence[Callable[[], Any]]], Iterator[tuple[int, Any]]]


def in_this_process(work: Sequence[Callable[[], Result]]) -> Iterator[tuple[int, Result]]:
    return ((number, each()) for number, each in enumerate(work))


def executor_for(rows: int, config: Config) -> Executor:
    """What does the pieces of work on so many rows."""
    if rows <= ALONE_ROWS:
        return in_this_process
    from rayrec.stages.on_ray.working import on_workers

    return on_workers(config)
