"""What a recall source is: it turns a query into candidates. The sources are in `sources/`, one file each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rayrec.config import Recall, Section
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.items import ItemData
from rayrec.recall.queues import NO_ITEMS, TopicQueues

NO_TOPIC = -1


@dataclass(frozen=True)
class Query:
    """A user at the time of a request, and what must not be shown to them."""

    user_id: str  # empty when nothing may be looked up by it
    clicked: np.ndarray  # int32 items, oldest first
    clicked_at: np.ndarray  # int64, UTC ms
    exclusions: Exclusions
    draw_seed: int  # any number; whatever is drawn at random for this request follows from it


@dataclass(frozen=True)
class Candidates:
    """Items, and for each of them why it is there. The items are distinct once they have been filtered."""

    items: np.ndarray  # int32 [n]
    why: np.ndarray  # str [n]: the label of the source that brought each item
    topics: np.ndarray  # int32 [n]: the topic whose queue brought each item, NO_TOPIC where none did

    @classmethod
    def labelled(cls, items: np.ndarray, label: str, topics: np.ndarray | None = None) -> "Candidates":
        """The candidates of one source."""
        return cls(items, np.full(len(items), label), np.full(len(items), NO_TOPIC, np.int32) if topics is None else topics)

    @classmethod
    def concatenated(cls, parts: "Sequence[Candidates]") -> "Candidates":
        if not parts:
            return cls.labelled(NO_ITEMS, "")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("items", "why", "topics")))

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: np.ndarray) -> "Candidates":
        return Candidates(self.items[rows], self.why[rows], self.topics[rows])


class NoOptions(Section):
    """The options of a source that has none."""


class Source(ABC):
    """The base of `sources/`. `Options` are the settings that a source alone has: `recall.sources.NAME.options` in the config."""

    Options: type[Section] = NoOptions
    label: ClassVar[str]  # what answers and metrics call the source

    def __init__(self, settings: Recall, options: Section, items: ItemData) -> None:
        self.settings, self.options, self.items = settings, options, items

    @abstractmethod
    def candidates(self, query: Query, queues: TopicQueues, count: int) -> Candidates:
        """The best `count` candidates that are not excluded, or all there are when there are fewer.

        Excluded and repeated ones may be among them, they are filtered out afterwards. A source must not look at more of the
        catalog than it needs, as it is called for each request.
        """
