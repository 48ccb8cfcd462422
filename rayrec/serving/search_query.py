"""What the HTTP API asks of search, and what it gets. It needs no torch."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rayrec.errors import RayrecError
from rayrec.retrieval.index import Filters


class SearchError(RayrecError):
    """A query can't be answered; the message says what to change."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status  # of HTTP


@dataclass(frozen=True)
class SearchQuery:
    """What is searched for, and among which videos."""

    kind: str  # text, picture or sound
    content: str | bytes  # words, or the bytes of a file
    k: int
    min_score: float | None = None  # None: the floor that was learned
    filters: Filters = field(default_factory=Filters)


class Found(NamedTuple):
    """The videos of an answer, the best first."""

    video_ids: list[str]
    scores: list[float]
    tags: list[str]  # towards which the query was moved
    floor: float  # the score that each of them is above


class Unanswered(NamedTuple):
    """A `SearchError` as it goes from one process to another."""

    status: int
    sentence: str


# Answers a query from the bundle of a version. Raises `SearchError`, and `OverloadedError` if nothing answers now.
Search = Callable[[str, SearchQuery], Awaitable[Found]]
# Where a video is in the space of a version's search, float32 [S]: by its id, or by its features of some modalities. None if it
# is not there. Raises as `Search` does.
Place = Callable[[str, str | dict[str, list[float]]], Awaitable[np.ndarray | None]]
