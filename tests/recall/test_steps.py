"""The steps to a page."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Recall
from rayrec.recall.queues import ItemTopics, TopicQueues
from rayrec.recall.steps import FRESH, POPULAR, Candidates, backfill, drop, select, source, top_topics

# Items 1-20: item i has topic i % 4; items 16-20 are fresh. CTR falls with the number.
IDS = ["", *(f"v{i}" for i in range(1, 21))]
TOPICS = ItemTopics.of(
    IDS, pa.table({"video_id": IDS[1:], "topics": pa.array([[i % 4] for i in range(1, 21)], pa.list_(pa.int32()))})
)
NONE = np.empty(0, dtype=np.int32)


@pytest.fixture
def queues():
    exposures = np.array([0] + [100] * 15 + [0] * 5)
    clicks = np.array([0] + list(range(60, 45, -1)) + [0] * 5)
    return TopicQueues.build(TOPICS, exposures, clicks, np.ones(21, bool), Recall(fresh_share=0.1), np.random.default_rng(0))


def test_top_topics_are_those_of_the_latest_clicks():
    history = np.array([3, 3, 3, 1, 5, 9, 2, 6, 4])
    topics, weights = top_topics(history, TOPICS, Recall(clicks=6, topics=2))
    assert (topics.tolist(), weights.tolist()) == ([1, 2], [3, 2])
    assert top_topics(NONE, TOPICS, Recall())[0].tolist() == []


def test_candidates_are_shared_by_weight(queues):
    history = np.array([1, 5, 9, 2])  # topic 1 three times, topic 2 once
    found = source(history, TOPICS, queues, Recall(topics=2, candidates=4))
    assert found.topics.tolist() == [1, 1, 1, 2]
    assert found.items.tolist() == [*queues.queue(1)[:3], *queues.queue(2)[:1]]
    assert len(source(NONE, TOPICS, queues, Recall())) == 0


def test_an_item_of_two_topics_stands_once():
    topics = ItemTopics.of(["", "a"], pa.table({"video_id": ["a"], "topics": pa.array([[0, 1]], pa.list_(pa.int32()))}))
    queues = TopicQueues.build(topics, np.array([0, 20]), np.array([0, 10]), np.ones(2, bool), Recall(), np.random.default_rng(0))
    assert source(np.array([1]), topics, queues, Recall()).items.tolist() == [1]


def test_drop_and_backfill(queues):
    banned = np.array([1, 2, 16], dtype=np.int32)
    kept = drop(source(np.array([1, 5]), TOPICS, queues, Recall(candidates=3)), banned)
    assert not set(kept.items) & set(banned.tolist())
    filled = backfill(kept, queues, banned, wanted=10, fresh_share=0.2)
    assert len(filled) == len(set(filled.items.tolist())) == 10
    assert filled.items[: len(kept)].tolist() == kept.items.tolist()
    assert not set(filled.items.tolist()) & set(banned.tolist())
    assert {POPULAR, FRESH} <= set(filled.topics.tolist())


def test_backfill_gives_all_there_is_and_no_more(queues):
    everything = backfill(Candidates(NONE, NONE), queues, NONE, wanted=10**6, fresh_share=0.1)
    assert sorted(everything.items.tolist()) == list(range(1, 21))
    assert len(backfill(everything, queues, NONE, wanted=5, fresh_share=0.1)) == 20
    nothing = backfill(Candidates(NONE, NONE), queues, np.arange(21), wanted=5, fresh_share=0.1)
    assert len(nothing) == 0


def test_select_takes_the_best_in_order():
    candidates = Candidates(np.arange(1, 7, dtype=np.int32), np.zeros(6, dtype=np.int32))
    scores = np.array([0.1, 0.9, 0.5, 0.9, 0.2, 0.3])
    assert select(candidates, scores, 3).tolist() in ([1, 3, 2], [3, 1, 2])
    assert sorted(select(candidates, scores, 100).tolist()) == list(range(6))
    assert select(candidates, scores, 0).tolist() == []
    assert select(candidates.take(NONE.astype(int)), NONE, 3).tolist() == []
