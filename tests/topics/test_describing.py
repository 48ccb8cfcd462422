"""Descriptions of topics."""

import numpy as np

from rayrec import tables
from rayrec.topics.describing import describe


def test_a_topic_is_described_by_its_words_tags_videos_and_neighbours() -> None:
    catalog = tables.from_columns(
        "catalog",
        {
            "video_id": ["a", "b", "c", "d"],
            "title": ["cat naps", "cat purrs", "dog runs", "dog barks"],
            "tags": [["cats"], ["cats", "funny"], ["dogs", "funny"], ["dogs"]],
        },
    )
    topics = tables.from_columns(
        "topics",
        {
            "video_id": ["d", "a", "b", "c"],
            "topics": [np.array(found, np.int32) for found in ([1], [0], [0, 1], [1])],
            "similarity": [np.array(found, np.float32) for found in ([0.7], [0.8], [0.9, 0.6], [0.95])],
        },
    )
    centres = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    cats, dogs, empty = describe(catalog, topics, centres)
    assert (cats.videos, dogs.videos, empty.videos) == (2, 3, 0)
    assert cats.words[0] == "cat"
    assert cats.tags[0] == "cats"
    assert cats.typical_videos == ["b", "a"]
    assert dogs.typical_videos == ["c", "d", "b"]
    assert dogs.nearest[0] == (2, np.float32(0.8).item())
    assert empty.words == empty.tags == empty.typical_videos == []
