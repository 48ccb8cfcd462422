"""The items that a recommender knows: those of its bundle, and behind them the videos that were added since it was published.

Item i of the bundle is row i - 1 of its table; the added ones follow in the order of their numbers in the state store. An `Items`
never changes. `grown` makes the next one, in which all items keep their places, at the cost of what is new and of a copy of the
numbers that recall keeps for each item.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from rayrec.recall.items import ItemData
from rayrec.recall.queues import ItemTopics
from rayrec.recall.similar import by_topics, by_vector
from rayrec.recall.vectors import Vectors
from rayrec.serving import covers
from rayrec.serving.additions import AddedVideo, described_by
from rayrec.serving.bundle import FACTS, Bundle
from rayrec.serving.seen_index import SeenIndex
from rayrec.serving.state.store import Addition


@dataclass(frozen=True)
class Items:
    """`I` counts item 0, which is "no item"."""

    bundle: Bundle
    topics: ItemTopics
    author_of: np.ndarray  # int32 [I], 0 where it is unknown
    authors: dict[str, int]  # a number from 1 for each author
    seen_index: SeenIndex
    user_vectors: Vectors | None = None  # of a collaborative model, if the bundle has one
    added: list[AddedVideo] = field(default_factory=list)
    numbers: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # of the added ones, in the state store
    _of_added: dict[str, int] = field(default_factory=dict)  # the item of each added video

    @classmethod
    def of(cls, bundle: Bundle) -> "Items":
        index = SeenIndex.of(bundle.item_ids[1:])
        return cls(bundle, bundle.item_topics, bundle.author_of, bundle.authors, index, bundle.user_vectors)

    def grown(self, additions: Sequence[Addition]) -> "Items":
        """With the videos that are known to the bundle's model (`described_by`), and neither in the bundle nor here yet."""
        first, new = len(self), dict[str, tuple[int, AddedVideo]]()
        for addition in described_by(additions, self.bundle.model):
            if not self.find(addition.video_id):
                new.setdefault(addition.video_id, (addition.number, AddedVideo.from_json(addition.row)))
        if not new:
            return self
        videos, authors = [video for _, video in new.values()], dict(self.authors)
        author_ids = [video.facts.get("author_id") for video in videos]
        numbers = [authors.setdefault(author, len(authors) + 1) if author else 0 for author in author_ids]
        return replace(
            self,
            topics=self.topics.grown([np.array(video.topics, np.int32) for video in videos]),
            author_of=np.append(self.author_of, np.array(numbers, np.int32)),
            authors=authors,
            seen_index=self.seen_index.grown(list(new), first),
            user_vectors=self.user_vectors and self.user_vectors.grown([video.vector for video in videos]),
            added=[*self.added, *videos],
            numbers=np.append(self.numbers, [number for number, _ in new.values()]),
            _of_added=self._of_added | {video_id: first + place for place, video_id in enumerate(new)},
        )

    def __len__(self) -> int:
        """`I`"""
        return self.bundle.items.num_rows + 1 + len(self.added)

    @property
    def data(self) -> ItemData:
        """What recall needs of all items."""
        return ItemData(self.topics, self.author_of, self._vectors, self.vectors_of, self.bundle.neighbours, self.user_vectors)

    def vectors_of(self, items: np.ndarray) -> np.ndarray | None:
        """The vectors of these items, float32 [n, size], of length 1 or all zeros; None when the bundle has no vectors."""
        vectors = self.bundle.vectors
        if vectors is None:
            return None
        found = vectors[np.minimum(items, len(vectors)) - 1]
        for row in np.flatnonzero(items > len(vectors)).tolist():
            vector = self.added[int(items[row]) - len(vectors) - 1].vector
            found[row] = 0 if vector is None else vector
        return found

    def find(self, video_id: str) -> int:
        """The item of a video, 0 if it is unknown."""
        return self.bundle.item_of.get(video_id) or self._of_added.get(video_id, 0)

    def find_all(self, video_ids: Sequence[str]) -> np.ndarray:
        """The items of these videos, int32; 0, which is in no queue, for those that are unknown."""
        return np.array([self.find(video_id) for video_id in video_ids], dtype=np.int32)

    def ids(self, items: np.ndarray) -> list[str]:
        """The video of each item."""
        known = self.bundle.item_ids
        return [known[item] if item < len(known) else self.added[item - len(known)].video_id for item in items.tolist()]

    def in_store(self, items: np.ndarray) -> np.ndarray:
        """The items as other processes know them, int32: an added one is named by its number, counted from the bundle's last item.

        The others may know other additions, but the bundle and the numbers in the state store are the same for all.
        """
        first = self.bundle.items.num_rows + 1
        if not len(self.added) or not (items >= first).any():
            return items.astype(np.int32)
        return np.where(items < first, items, first - 1 + self.numbers[np.maximum(items - first, 0)]).astype(np.int32)

    def facts_of(self, items: np.ndarray) -> list[dict[str, Any]]:
        """The catalog's row of each item, without vector and with `has_cover`."""
        first = self.bundle.items.num_rows + 1
        late = items[items >= first].tolist()
        rows = iter(self.bundle.facts_of(items[items < first]) if len(late) < len(items) else [])
        return [self._facts(self.added[item - first]) if item >= first else next(rows) for item in items.tolist()]

    def cover(self, item: int) -> bytes | None:
        """The JPEG of an item's cover, None for an item without one. Raises `CoverError` if it can't be read."""
        first = self.bundle.items.num_rows + 1
        if item < first:
            return self.bundle.cover(item)
        file = self.added[item - first].cover
        return covers.read_added(self.bundle.fs, f"{self.bundle.covers_folder}/{file}") if file else None

    def similar(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """The other items that are like an item at all (int32), and their similarities: by vectors, or by topics without any."""
        vectors = self.bundle.vectors
        if vectors is None:
            return by_topics(self.topics, item)
        return by_vector(vectors, item, self._added_vectors(vectors.shape[1]) if self.added else None)

    def _vectors(self) -> np.ndarray | None:
        vectors = self.bundle.vectors
        if vectors is None or not self.added:
            return vectors
        return np.concatenate([vectors, self._added_vectors(vectors.shape[1])])

    def _added_vectors(self, size: int) -> np.ndarray:
        """float32 [added, size]; zeros for a video without one."""
        rows = np.zeros((len(self.added), size), np.float32)
        for row, video in zip(rows, self.added, strict=True):
            if video.vector is not None:
                row[:] = video.vector
        return rows

    def _facts(self, video: AddedVideo) -> dict[str, Any]:
        facts: dict[str, Any] = {name: video.facts.get(name) for name in FACTS}
        told = {"topics": video.topics, "similarity": video.similarity, "exposures": 0, "clicks": 0}
        return facts | cast(dict[str, Any], told) | {"has_cover": video.cover is not None}
