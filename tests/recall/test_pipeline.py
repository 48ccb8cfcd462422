"""The steps to a page."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Recall
from rayrec.recall.pipeline import FRESH, POPULAR, Candidates, Exclusions, backfill, drop, source, top_topics
from rayrec.recall.queues import ItemTopics, TopicQueues

# Items 1-20: item i has topic i % 4; items 16-20 are fresh. CTR falls with the number.
IDS = ["", *(f"v{i}" for i in range(1, 21))]
TOPICS = ItemTopics.of(
    IDS, pa.table({"video_id": IDS[1:], "topics": pa.array([[i % 4] for i in range(1, 21)], pa.list_(pa.int32()))})
)
NONE = np.empty(0, dtype=np.int32)
NOTHING = Exclusions.of(NONE)


@pytest.fixture
def queues():
    exposures = np.array([0] + [100] * 15 + [0] * 5)
    clicks = np.array([0] + list(range(60, 45, -1)) + [0] * 5)
    return TopicQueues.build(TOPICS, exposures, clicks, np.arange(21) > 0, Recall(fresh_share=0.1), np.random.default_rng(0))


def test_top_topics_are_those_of_the_latest_clicks():
    history = np.array([3, 3, 3, 1, 5, 9, 2, 6, 4])
    topics, weights = top_topics(history, TOPICS, Recall(clicks=6, topics=2))
    assert (topics.tolist(), weights.tolist()) == ([1, 2], [3, 2])
    assert top_topics(NONE, TOPICS, Recall())[0].tolist() == []


def test_candidates_are_shared_by_weight(queues):
    history = np.array([1, 5, 9, 2])  # topic 1 three times, topic 2 once
    found = source(history, queues, Recall(topics=2, candidates=4), NOTHING, draw_seed=0)
    assert found.topics.tolist() == [1, 1, 1, 2]
    assert found.items.tolist() == [*queues.queue(1)[:3], *queues.queue(2)[:1]]
    assert len(source(NONE, queues, Recall(), NOTHING, draw_seed=0)) == 0


def test_who_has_seen_the_best_of_a_topic_gets_the_next_best(queues):
    history, settings = np.array([1, 5, 9, 2]), Recall(topics=2, candidates=4)
    exclusions = Exclusions.of(np.array([1, 5, 2]))
    found = source(history, queues, settings, exclusions, draw_seed=0)
    assert found.items.tolist() == [1, 5, 9, 13, queues.queue(1)[4], 2, 6]
    assert drop(found, exclusions).items.tolist() == [9, 13, queues.queue(1)[4], 6]
    everything = source(history, queues, settings, Exclusions.of(np.arange(21)), draw_seed=0)
    assert len(drop(everything, Exclusions.of(np.arange(21)))) == 0


def test_an_item_of_two_topics_stands_once():
    topics = ItemTopics.of(["", "a"], pa.table({"video_id": ["a"], "topics": pa.array([[0, 1]], pa.list_(pa.int32()))}))
    queues = TopicQueues.build(
        topics, np.array([0, 20]), np.array([0, 10]), np.array([False, True]), Recall(), np.random.default_rng(0)
    )
    assert drop(source(np.array([1]), queues, Recall(), NOTHING, draw_seed=0), NOTHING).items.tolist() == [1]


def test_what_is_banned():
    author_of = np.array([0, 1, 1, 2, 3])
    exclusions = Exclusions.of(np.array([4, 2, 4]), blocked=np.array([2]), author_of=author_of)
    assert exclusions.allow(np.arange(5)).tolist() == [False, True, False, False, False]
    assert exclusions.also(np.array([1])).allow(np.arange(5)).tolist() == [False] * 5
    assert NOTHING.allow(np.arange(3)).tolist() == [False, True, True]


def test_drop_and_backfill(queues):
    exclusions = Exclusions.of(np.array([1, 2, 16]))
    kept = drop(source(np.array([1, 5]), queues, Recall(candidates=3), exclusions, draw_seed=1), exclusions)
    assert not set(kept.items) & {1, 2, 16}
    filled = backfill(kept, queues, exclusions, wanted=13, draw_seed=1)
    assert len(filled) == len(set(filled.items.tolist())) == 13
    assert filled.items[:3].tolist() == kept.items.tolist() == [5, 9, 13]
    assert not set(filled.items.tolist()) & {1, 2, 16}
    assert filled.topics[3:].tolist() == [POPULAR] * 9 + [FRESH]
    assert filled.items[3:12].tolist() == [3, 4, 6, 7, 8, 10, 11, 12, 14]  # the most clicked first


def test_where_no_topic_brings_anything_topics_take_turns(queues):
    filled = backfill(Candidates(NONE, NONE), queues, NOTHING, wanted=8, draw_seed=0)
    popular = filled.items[filled.topics == POPULAR]
    assert sorted(popular[:4] % 4) == [0, 1, 2, 3]
    assert popular.tolist() == [1, 2, 3, 4, 5, 6, 7]  # of each topic the most clicked, then the next
    assert np.count_nonzero(filled.topics == FRESH) == 1


def test_backfill_gives_all_there_is_and_no_more(queues):
    for draw_seed in range(7):
        everything = backfill(Candidates(NONE, NONE), queues, NOTHING, wanted=10**6, draw_seed=draw_seed)
        assert sorted(everything.items.tolist()) == list(range(1, 21))
    assert len(backfill(everything, queues, NOTHING, wanted=5, draw_seed=0)) == 20
    nothing = backfill(Candidates(NONE, NONE), queues, Exclusions.of(np.arange(21)), wanted=5, draw_seed=0)
    assert len(nothing) == 0
