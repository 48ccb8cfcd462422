"""The videos that a ranker has beside the items of its bundle, and how requests name them.

`Items.in_store` gives an added video the same name everywhere: its number in the state store, counted from the bundle's last item.
Each ranker keeps its own place for it, in the order in which the videos came to it.
"""

import logging
import threading
from collections.abc import Sequence

import numpy as np

from rayrec.data.errors import DataError
from rayrec.ranking.scorer import Scorer
from rayrec.serving.additions import AddedVideo, item_table
from rayrec.serving.state.store import Addition

log = logging.getLogger(__name__)


class AddedItems:
    """The added videos of one scorer. Every method may be called from any thread."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.first = scorer, len(scorer.item_ids)
        self._place: dict[int, int] = {}  # number -> item of the scorer
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._place)

    def missing(self, items: np.ndarray) -> list[int]:
        """The numbers of the added videos among these items, as requests name them, that are not here yet."""
        late = items[items >= self.first]
        return [number for number in np.unique(late - self.first + 1).tolist() if number not in self._place] if len(late) else []

    def take(self, additions: Sequence[Addition]) -> None:
        """Appends the videos that are new to the items of the scorer."""
        with self._lock:
            new = [addition for addition in additions if addition.number not in self._place]
            if not new:
                return
            videos = [AddedVideo.from_json(addition.row) for addition in new]
            try:
                self.scorer.append_items(item_table(videos))
            except DataError as error:
                log.error("some of %d added videos are ranked without their vectors: %s", len(videos), error)
                self.scorer.append_items(item_table([AddedVideo(video.facts, video.topics) for video in videos]))
            start = self.first + len(self._place)
            self._place |= {addition.number: start + place for place, addition in enumerate(new)}

    def local(self, items: np.ndarray) -> np.ndarray:
        """The items of the scorer for items as requests name them, int32. None may be `missing`."""
        late = items >= self.first
        if not late.any():
            return items
        found = items.copy()
        found[late] = [self._place[number] for number in (items[late] - self.first + 1).tolist()]
        return found
