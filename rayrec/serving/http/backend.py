"""What the routes answer from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Path
from starlette.exceptions import HTTPException

from rayrec.config import Serving
from rayrec.serving.metrics import Metrics
from rayrec.serving.recommender import OverloadedError, Recommender
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.rollout.history import Swap

VideoId = Annotated[str, Path(min_length=1, max_length=512, examples=["v7"])]
UserId = Annotated[str, Path(min_length=1, max_length=512, examples=["ann"])]


@dataclass(frozen=True)
class Backend:
    """The arms that answer, the settings, where requests are counted, and the history of swaps.

    `loaded_arms` returns None while nothing is loaded. It is called for each request, since a swap replaces the arms.
    """

    loaded_arms: Callable[[], Arms | None]
    serving: Serving
    metrics: Metrics
    swaps: Callable[[], list[Swap]]

    def arms(self) -> Arms:
        """The arms that answer now. Raises `OverloadedError` while nothing is loaded."""
        arms = self.loaded_arms()
        if arms is None:
            raise OverloadedError("no bundle is loaded yet")
        return arms

    def find_video(self, video_id: str) -> tuple[Recommender, int]:
        """An arm that knows a video, and its item there. Raises a 404 if none does."""
        for recommender in self.arms().named().values():
            if (item := recommender.bundle.item_of.get(video_id)) is not None:
                return recommender, item
        raise HTTPException(404, f"there is no video {video_id!r}")
