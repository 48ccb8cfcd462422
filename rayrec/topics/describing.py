"""Describes topics for people: what each topic is about, its most typical videos, and its nearest topics."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.topics.tag_graph import incidence
from rayrec.topics.words import membership, title_words, typical

WORDS, VIDEOS, NEIGHBOURS = 8, 12, 3  # shown for each topic, at most
MAX_TAGS = 50_000


@dataclass(frozen=True)
class Description:
    topic: int
    videos: int
    words: list[str]
    tags: list[str]
    typical_videos: list[str]  # ids, the nearest to the centre first
    nearest: list[tuple[int, float]]  # other topics and the cosine similarity of their centres


def describe(catalog: pa.Table, topics: pa.Table, centres: np.ndarray) -> list[Description]:
    """One description for each topic, in the order of the ids. `centres` are L2-normalised [topics, size]."""
    rows = pc.index_in(topics["video_id"], value_set=catalog["video_id"].combine_chunks())
    known = catalog.take(rows.combine_chunks())
    members = membership(topics["topics"].to_numpy(), len(centres))
    to_centre = membership(topics["topics"].to_numpy(), len(centres), topics["similarity"].to_numpy())
    words, tags = (
        typical((members @ counts).tocsr(), names, WORDS)
        for counts, names in (title_words(known["title"].to_pylist()), incidence(known["tags"], MAX_TAGS))
    )
    similarity = centres @ centres.T
    np.fill_diagonal(similarity, -1)
    described = []
    for topic in range(len(centres)):
        row = slice(to_centre.indptr[topic], to_centre.indptr[topic + 1])
        best = to_centre.indices[row][np.argsort(-to_centre.data[row], kind="stable")[:VIDEOS]]
        near = np.argsort(-similarity[topic], kind="stable")[: min(NEIGHBOURS, len(centres) - 1)]
        described.append(
            Description(
                topic,
                int(members.indptr[topic + 1] - members.indptr[topic]),
                words[topic],
                tags[topic],
                topics["video_id"].take(pa.array(best)).to_pylist(),
                [(int(other), float(similarity[topic, other])) for other in near],
            )
        )
    return described
