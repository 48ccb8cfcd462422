"""What the routes answer from."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, TypeVar

from fastapi import Path, Query
from pydantic import AfterValidator
from starlette.exceptions import HTTPException

from rayrec.config import Serving
from rayrec.serving.assignment import Experiments
from rayrec.serving.inbox import Inbox
from rayrec.serving.metrics import Metrics
from rayrec.serving.recommender import OverloadedError, Recommender
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.rollout.history import Swap
from rayrec.serving.search_query import Place, Search
from rayrec.values import text_of

FILES_AT_ONCE = 16  # reads of covers and media
T = TypeVar("T")
TrackId = Annotated[str, Path(min_length=1, max_length=512, examples=["t12"]), AfterValidator(text_of)]
VideoId = Annotated[str, Path(min_length=1, max_length=512, examples=["v7"]), AfterValidator(text_of)]
UserId = Annotated[str, Path(min_length=1, max_length=512, examples=["ann"]), AfterValidator(text_of)]
UserOfQuery = Annotated[str, Query(min_length=1, max_length=512, examples=["ann"]), AfterValidator(text_of)]


@dataclass(frozen=True)
class Backend:
    """The arms that answer, the settings, where requests are counted, the history of swaps, where new videos arrive, what searches.

    `loaded_arms` returns None while nothing is loaded. It is called for each request, since a swap replaces the arms.
    """

    loaded_arms: Callable[[], Arms | None]
    serving: Serving
    metrics: Metrics
    swaps: Callable[[], list[Swap]]
    inbox: Inbox | None = None  # None unless the config has the section `serving.uploads`
    search: Search | None = None  # None unless the config has the section `search`
    place: Place | None = None  # as `search`
    max_tracks: int = 100  # in an answer with music
    # Operators' writes wait here, one behind the other, for a store that can't write now. What only reads has other threads.
    _writes: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "writes"))
    # Covers and media are read here, so that a store of files that does not answer stops nothing else.
    _reads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(FILES_AT_ONCE, "files"))

    @cached_property
    def experiments(self) -> Experiments:
        return Experiments(self.serving.experiments)

    async def write(self, change: Callable[..., T], *arguments: object) -> T:
        """What `change(*arguments)` returns, which may wait long for the store. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._writes, change, *arguments)

    async def read(self, read: Callable[..., T], *arguments: object) -> T:
        """What `read(*arguments)` returns, which may wait long for a file system. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._reads, read, *arguments)

    def arms(self) -> Arms:
        """The arms that answer now. Raises `OverloadedError` while nothing is loaded."""
        arms = self.loaded_arms()
        if arms is None:
            raise OverloadedError("no bundle is loaded yet")
        return arms

    def find_video(self, video_id: str) -> tuple[Recommender, int]:
        """An arm that knows a video, and its item there. Raises a 404 if none does."""
        for recommender in self.arms().named().values():
            if item := recommender.items.find(video_id):
                return recommender, item
        raise HTTPException(404, f"there is no video {video_id!r}")
