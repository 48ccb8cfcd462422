"""What recall knows of all items for as long as a bundle is in use."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.recall.neighbours import Neighbours
from rayrec.recall.queues import ItemTopics
from rayrec.recall.vectors import Vectors
from rayrec.tables import TEXT

DAY_MS = 86_400_000


@dataclass(frozen=True)
class ItemData:
    """`I` counts item 0, which is "no item"."""

    topics: ItemTopics
    author_of: np.ndarray  # int32 [I], 0 for unknown
    # Reads the vectors of the topics stage, float32 [I - 1, size]: item i in row i - 1, of length 1 or all zeros. None without any.
    load_vectors: Callable[[], np.ndarray | None] = lambda: None
    # Those of some items, float32 [n, size], of length 1 or all zeros. Reads no others.
    vectors_of: Callable[[np.ndarray], np.ndarray | None] = lambda items: None
    neighbours: Neighbours | None = None  # by a collaborative model, as are the vectors; None where there is none
    vectors: Vectors | None = None

    @classmethod
    def of_tables(
        cls, item_ids: list[str], catalog: pa.Table, topics: pa.Table | None, embeddings: Callable[[], pa.Table | None]
    ) -> "ItemData":
        """From the tables of a workspace, for items in the order of `item_ids`. `embeddings` reads the table of that name."""
        author_ids = _aligned(catalog, "author_id", item_ids[1:])
        return cls(
            ItemTopics.of(item_ids, topics),
            number_authors(author_ids)[1],
            lambda: item_vectors(embeddings(), item_ids[1:]),
        )


def count_by_user_and_day(
    items: np.ndarray, users: np.ndarray, at: np.ndarray, clicked: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Exposures and clicks of each of `count` items, int64 [count] each, from the rows of a log: indices, UTC ms and a mask.

    A user counts once a day (UTC) for each item, like in the state store's counts, so that nobody can lift or sink a video alone.
    User 0 is not one user but all who are unknown, whose rows all count.
    """

    def distinct(rows: np.ndarray) -> np.ndarray:
        known = users[rows] > 0
        day = at[rows][known] // DAY_MS
        days = int(day.max() - day.min()) + 1 if len(day) else 1
        key = (users[rows][known].astype(np.int64) * count + items[rows][known]) * days + day - (day.min() if len(day) else 0)
        return np.concatenate([np.unique(key) // days % count, items[rows][~known]]).astype(np.int64)

    shown, clicks = np.arange(len(items)), np.flatnonzero(clicked)
    return np.bincount(distinct(shown), minlength=count), np.bincount(distinct(clicks), minlength=count)


def number_authors(author_ids: pa.Array) -> tuple[dict[str, int], np.ndarray]:
    """Numbers the authors from 1: the number of each name, and the author of each item, int32 [I], 0 for item 0 and unknown ones.

    `author_ids` are those of the items from 1 on.
    """
    encoded = author_ids.dictionary_encode()
    author_of = np.append(0, encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False) + 1).astype(np.int32)
    return {name: number for number, name in enumerate(encoded.dictionary.to_pylist(), start=1)}, author_of


def item_vectors(embeddings: pa.Table | None, video_ids: list[str]) -> np.ndarray | None:
    """The vectors of these videos, float32 [videos, size], zeros for a video without one; None when no video has a vector."""
    if embeddings is None:
        return None
    vectors = _aligned(embeddings, "vector", video_ids)
    present = vectors.is_valid().to_numpy(zero_copy_only=False)
    if not present.any():
        return None
    found = pc.list_flatten(vectors).to_numpy().reshape(present.sum(), -1)
    rows = np.zeros((len(vectors), found.shape[1]), dtype=np.float32)
    rows[present] = found
    return rows


def _aligned(table: pa.Table, column: str, video_ids: list[str]) -> pa.Array:
    """A column in the order of `video_ids`; null for videos that are not in the table."""
    rows = pc.index_in(pa.array(video_ids, TEXT), value_set=table["video_id"].combine_chunks())
    return table[column].combine_chunks().take(rows)
