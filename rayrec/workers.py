"""Processes that train one model together."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Worker:
    """One of `count` processes; each takes its share of every batch."""

    rank: int = 0
    count: int = 1


ALONE = Worker()
