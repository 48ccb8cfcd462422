"""Finds the vectors nearest to a query: exactly, by one pass over all of them, or, in large catalogs, approximately.

The exact search is a product of matrices in blocks, whose time grows with the number of vectors (docs/benchmarks.md). Above
`exact_videos` the vectors that the index began with are searched by `usearch`'s graph (HNSW; Malkov & Yashunin, 2018), which the
extra `search` installs; those that were added since, and whatever few a filter leaves, are searched exactly.

The words of a query are looked for in titles and tags as well. A video is found by either: 1 - score = (1 - cosine) (1 - share^2),
where the share of the query's words that it has is weighed by how rare they are (`retrieval/words.py`).
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.nearest import restored
from rayrec.retrieval.words import Words, weights_of
from rayrec.tables import TEXT

# What is known of a video beside its vector, for filters, and the words that it may be found by.
FACTS = pa.schema(
    {
        "video_id": TEXT,
        "primary_class": TEXT,
        "secondary_class": TEXT,
        "author_id": TEXT,
        "published_at": pa.int64(),
        "title": TEXT,
        "tags": pa.list_(TEXT),
    }
)
BLOCK = 1 << 16  # vectors whose scores are in memory at a time
MAX_GROWING = 1 << 12  # videos of a segment that is copied when others are added to it
OVERSAMPLING = 4  # times k that are asked of the graph, so that some are left when others have been replaced or filtered out


@dataclass(frozen=True)
class Filters:
    """What videos a query is about; None stands for all."""

    class_: str | None = None  # the primary or the secondary class
    author: str | None = None
    since: int | None = None  # published at this time (UTC ms) or later

    def mask(self, facts: pa.Table) -> np.ndarray | None:
        """Which rows of a table of FACTS pass, bool [N]; None for all."""
        wanted = []
        if self.class_ is not None:
            classes = (pc.equal(facts[name], self.class_) for name in ("primary_class", "secondary_class"))
            wanted.append(pc.or_kleene(*classes))
        if self.author is not None:
            wanted.append(pc.equal(facts["author_id"], self.author))
        if self.since is not None:
            wanted.append(pc.greater_equal(facts["published_at"], self.since))
        if not wanted:
            return None
        masks = [each.combine_chunks().fill_null(False).to_numpy(zero_copy_only=False) for each in wanted]
        found: np.ndarray = np.logical_and.reduce(masks)
        return found


@dataclass(frozen=True)
class _Segment:
    """Videos with their vectors. It is never changed: what replaces it is another one."""

    facts: pa.Table  # FACTS
    vectors: np.ndarray  # float32 [N, S] of length 1, or zeros for a video that can't be found
    alive: np.ndarray  # bool [N]; False for a video whose vector has been replaced
    words: Words
    graph: Any = None  # of usearch

    def best(self, query: "_Query", k: int, floor: float, filters: Filters, exact_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of at most k videos with a score above the floor, and their scores, the best first."""
        mask = filters.mask(self.facts)
        possible = self.alive if mask is None else self.alive & mask
        shares = self.words.shares(query.words)
        if self.graph is not None and possible.sum() > exact_rows:
            matches = self.graph.search(query.vector, OVERSAMPLING * k * len(possible) // int(possible.sum()))
            rows = np.asarray(matches.keys, dtype=np.int64)
            if shares is not None:
                rows = np.union1d(rows, _largest(np.arange(len(shares)), shares * possible, BLOCK, 0.0)[0])
            rows = rows[possible[rows]]
            return _largest(rows, _scores(self.vectors[rows] @ query.vector, shares, rows), k, floor)
        some = None if possible.all() else np.flatnonzero(possible)
        found = [_largest(rows, _scores(cosines, shares, rows), k, floor) for rows, cosines in self._cosines(query.vector, some)]
        rows, scores = (np.concatenate(each) for each in zip(*found, strict=True)) if found else (np.empty(0, int), np.empty(0))
        return _largest(rows, scores, k, floor)

    def _cosines(self, vector: np.ndarray, some: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(self.vectors) if some is None else len(some), BLOCK):
            if some is None:
                piece = self.vectors[start : start + BLOCK]
                yield np.arange(start, start + len(piece)), piece @ vector
            else:
                rows = some[start : start + BLOCK]
                yield rows, self.vectors[rows] @ vector


@dataclass(frozen=True)
class _Query:
    vector: np.ndarray  # float32 [S]
    words: dict[str, float]  # with their weights


class Index:
    """The videos that can be found. Any thread may search while another adds."""

    def __init__(self, facts: pa.Table, vectors: np.ndarray, exact_videos: int, graph: bytes | None = None) -> None:
        """`facts` (FACTS) and `vectors` (float32 [N, S] of length 1, or zeros for a video without one) are in the same order.

        `graph` is what `nearest.graph_of` made of these vectors. It is used where a query is about more than `exact_videos`.
        """
        self.exact_videos, self._lock = exact_videos, threading.Lock()
        self._segments: tuple[_Segment, ...] = (replace(_segment(facts, vectors), graph=restored(graph)),)

    def __len__(self) -> int:
        return sum(int(segment.alive.sum()) for segment in self._segments)

    def search(
        self, vector: np.ndarray, k: int, floor: float = -1.0, filters: Filters = Filters(), text: str = ""
    ) -> tuple[list[str], list[float]]:
        """The ids of at most k videos that score above the floor, and their scores, the best first.

        `vector` is float32 [S], of length 1. The scores are cosines, and higher for videos that have words of `text`.
        """
        segments, found = self._segments, list[tuple[float, str]]()
        query = _Query(vector, weights_of(text, [segment.words for segment in segments]) if text else {})
        for segment in segments:
            rows, scores = segment.best(query, k, floor, filters, self.exact_videos)
            ids = segment.facts["video_id"].take(pa.array(rows)).to_pylist()
            found += zip(scores.tolist(), ids, strict=True)
        found = sorted(found, key=lambda each: -each[0])[:k]
        return [video_id for _, video_id in found], [score for score, _ in found]

    def vector_of(self, video_id: str) -> np.ndarray | None:
        """The vector of a video, float32 [S]; None for one that is not here or has none."""
        for segment in reversed(self._segments):
            here = pc.equal(segment.facts["video_id"], video_id).combine_chunks().to_numpy(zero_copy_only=False)
            rows = np.flatnonzero(here & segment.alive)
            if len(rows):
                vector: np.ndarray = segment.vectors[rows[0]]
                return vector if vector.any() else None
        return None

    def add(self, facts: pa.Table, vectors: np.ndarray) -> None:
        """Make videos findable from now on. One that is there already gets the new vector and facts.

        `facts` needs a `video_id`; columns of FACTS that it lacks are unknown.
        """
        added = _segment(facts, vectors.astype(np.float32))
        ids = added.facts["video_id"].combine_chunks()
        with self._lock:
            segments = [_without(segment, ids) for segment in self._segments]
            if len(segments) > 1 and len(segments[-1].vectors) + len(added.vectors) <= MAX_GROWING:
                added = _joined(segments.pop(), added)
            self._segments = (*segments, added)


def _without(segment: _Segment, ids: pa.Array) -> _Segment:
    """The segment without the videos of these ids."""
    gone = pc.is_in(segment.facts["video_id"], value_set=ids).combine_chunks().to_numpy(zero_copy_only=False)
    return replace(segment, alive=segment.alive & ~gone) if gone.any() else segment


def _joined(first: _Segment, second: _Segment) -> _Segment:
    facts, vectors = pa.concat_tables([first.facts, second.facts]), np.concatenate([first.vectors, second.vectors])
    return replace(_segment(facts, vectors), alive=np.concatenate([first.alive, second.alive]), graph=first.graph)


def _segment(facts: pa.Table, vectors: np.ndarray) -> _Segment:
    columns = {
        field.name: facts[field.name].cast(field.type) if field.name in facts.column_names else pa.nulls(facts.num_rows, field.type)
        for field in FACTS
    }
    known = pa.table(columns, schema=FACTS)
    return _Segment(known, vectors, np.ones(len(vectors), dtype=bool), Words(known["title"], known["tags"]))


def either(cosines: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The scores of videos by the cosines of their vectors and by the shares of the query's words that they have."""
    return np.asarray(1 - (1 - cosines) * (1 - shares**2))


def _scores(cosines: np.ndarray, shares: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    return cosines if shares is None else either(cosines, shares[rows])


def _largest(rows: np.ndarray, scores: np.ndarray, k: int, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """The k best of the scores above the floor, the best first. A score of exactly 0 is that of a video without a vector."""
    above = np.flatnonzero((scores > floor) & (scores != 0))
    if len(above) > k:
        above = above[np.argpartition(-scores[above], k - 1)[:k]]
    best = above[np.argsort(-scores[above], kind="stable")]
    return rows[best], scores[best]
