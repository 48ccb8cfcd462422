"""Topic queues against SOURCES C.4, written as a loop."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Recall
from rayrec.recall.queues import ItemTopics, TopicQueues

ITEMS, TOPICS = 300, 6


@pytest.fixture
def world():
    rng = np.random.default_rng(3)
    ids = ["", *(f"v{i}" for i in range(1, ITEMS))]
    lists = [sorted(rng.choice(TOPICS, rng.integers(0, 4), replace=False).tolist()) for _ in ids[1:]]
    table = pa.table({"video_id": ids[1:], "topics": pa.array(lists, pa.list_(pa.int32()))})
    exposures = rng.integers(0, 40, ITEMS)
    clicks = rng.binomial(exposures, 0.12)
    available = rng.random(ITEMS) < 0.9
    return ids, table, [[], *lists], exposures, clicks, available


def test_queues_hold_what_the_source_says(world):
    ids, table, lists, exposures, clicks, available = world
    settings = Recall(fresh_share=0.1)
    queues = TopicQueues.build(ItemTopics.of(ids, table), exposures, clicks, available, settings, np.random.default_rng(0))
    for topic in range(TOPICS):
        members = [i for i in range(1, ITEMS) if topic in lists[i] and available[i]]
        fresh = {i for i in members if exposures[i] < 10}
        established = [i for i in members if i not in fresh and clicks[i] / exposures[i] >= 0.07]
        queue = queues.queue(topic).tolist()
        kept = [i for i in queue if i not in fresh]
        assert sorted(kept) == sorted(established)
        ctr = [clicks[i] / exposures[i] for i in kept]
        assert ctr == sorted(ctr, reverse=True)
        drawn = [i for i in queue if i in fresh]
        assert len(drawn) == len(set(drawn)) == min(len(fresh), int(np.ceil(len(established) / 9)))
        assert len(queue) == len(set(queue))


def test_fresh_items_are_drawn_anew_and_stand_between_the_others(world):
    ids, table, _, exposures, clicks, available = world
    topics = ItemTopics.of(ids, table)
    draws = [TopicQueues.build(topics, exposures, clicks, available, Recall(), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert all(np.array_equal(draws[0].queue(t), draws[1].queue(t)) for t in range(TOPICS))
    assert any(not np.array_equal(draws[0].queue(t), draws[2].queue(t)) for t in range(TOPICS))
    queue = draws[0].queue(0)
    places = np.flatnonzero(exposures[queue] < 10)
    assert places[0] == 9  # the tenth place is the first fresh one


def test_a_topic_of_fresh_items_alone_keeps_them_all():
    table = pa.table({"video_id": ["a", "b"], "topics": pa.array([[0], [0]], pa.list_(pa.int32()))})
    zeros = np.zeros(3, dtype=np.int64)
    queues = TopicQueues.build(
        ItemTopics.of(["", "a", "b"], table), zeros, zeros, np.ones(3, bool), Recall(), np.random.default_rng(0)
    )
    assert sorted(queues.queue(0).tolist()) == [1, 2]
    assert sorted(queues.fresh.tolist()) == [1, 2]
    assert queues.popular.tolist() == queues.queue(5).tolist() == queues.queue(-1).tolist() == []


def test_without_topics_there_are_only_popular_and_fresh(world):
    ids, _, _, exposures, clicks, available = world
    topics = ItemTopics.of(ids, None)
    queues = TopicQueues.build(topics, exposures, clicks, available, Recall(), np.random.default_rng(0))
    assert len(queues.items) == 0
    assert set(queues.popular.tolist()) == {i for i in range(1, ITEMS) if available[i] and exposures[i] >= 10}


def test_item_topics_follow_the_item_order(world):
    ids, table, lists, *_ = world
    topics = ItemTopics.of(ids, table)
    picked = np.array([7, 0, 3, 7])
    assert topics.of_items(picked).tolist() == [t for i in picked for t in lists[i]]
