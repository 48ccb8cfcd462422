"""What a recall source is: it turns a query into candidates. The sources are in `sources/`, one file each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rayrec.config import Recall, Section
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.feedback import Feedback
from rayrec.recall.items import ItemData
from rayrec.recall.queues import NO_ITEMS, TopicQueues
from rayrec.registry import NoOptions

NO_TOPIC = -1


@dataclass(frozen=True)
class Query:
    """A user at the time of a request, and what must not be shown to them."""

    user_id: str  # empty when nothing may be looked up by it
    clicked: np.ndarray  # int32 items, oldest first
    clicked_at: np.ndarray  # int64, UTC ms
    exclusions: Exclusions
    draw_seed: int  # any number; whatever is drawn at random for this request follows from it
    feedback: Feedback | None = None  # what the user said of videos; None if nothing


@dataclass(frozen=True)
class Candidates:
    """Items and where they come from. The items are distinct once they have been filtered."""

    items: np.ndarray  # int32 [n]
    topics: np.ndarray  # int32 [n]: the topic whose queue brought each item, NO_TOPIC where none did
    sources: np.ndarray  # int8 [n]: the source that brought each item, an index into `RecallPipeline.labels`

    @classmethod
    def of(cls, items: np.ndarray, topics: np.ndarray | None = None) -> "Candidates":
        """The candidates of one source, without a topic unless `topics` are given."""
        if topics is None:
            topics = np.full(len(items), NO_TOPIC, np.int32)
        return cls(items, topics, np.zeros(len(items), np.int8))

    @classmethod
    def joined(cls, parts: "Sequence[Candidates]") -> "Candidates":
        """One after the other; each part is numbered as a source of its own."""
        numbers = np.repeat(np.arange(len(parts), dtype=np.int8), [len(part) for part in parts])
        items, topics = (np.concatenate([NO_ITEMS, *(getattr(part, name) for part in parts)]) for name in ("items", "topics"))
        return cls(items, topics, numbers)

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: np.ndarray) -> "Candidates":
        """The candidates in these rows."""
        return Candidates(self.items[rows], self.topics[rows], self.sources[rows])


class Source(ABC):
    """The base of `sources/`. `Options` are the settings that a source alone has: `recall.sources.NAME.options` in the config."""

    Options: type[Section] = NoOptions
    label: ClassVar[str]  # what answers and metrics call the source when they say why a video is on the page
    is_collaborative: ClassVar[bool] = False  # whether it needs what the stage `collaborative` makes

    def __init__(self, settings: Recall, options: Section, items: ItemData) -> None:
        self.settings, self.options, self.items = settings, options, items

    @abstractmethod
    def candidates(self, query: Query, queues: TopicQueues, count: int) -> Candidates:
        """The best `count` candidates that are not excluded, or all there are when there are fewer.

        Excluded and repeated ones may be among them, they are filtered out afterwards. A source must not look at more of the
        catalog than it needs, as it is called for each request.
        """
