"""Topic queues against the rules of their source, written as a loop."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Recall
from rayrec.recall import queues as queues_module
from rayrec.recall.queues import ItemTopics, TopicQueues, interleaved_by_topic

ITEMS, TOPICS = 300, 6


World = tuple[list[str], pa.Table, list[list[int]], np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture
def world() -> World:
    rng = np.random.default_rng(3)
    ids = ["", *(f"v{i}" for i in range(1, ITEMS))]
    lists = [sorted(rng.choice(TOPICS, rng.integers(0, 4), replace=False).tolist()) for _ in ids[1:]]
    table = pa.table({"video_id": ids[1:], "topics": pa.array(lists, pa.list_(pa.int32()))})
    exposures = rng.integers(0, 40, ITEMS)
    clicks = rng.binomial(exposures, 0.12)
    available = rng.random(ITEMS) < 0.9
    return ids, table, [[], *lists], exposures, clicks, available


def test_queues_hold_what_the_source_says(world: World) -> None:
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
        best = [(clicks[i] / exposures[i], clicks[i]) for i in kept]
        assert best == sorted(best, reverse=True)
        drawn = [i for i in queue if i in fresh]
        assert len(drawn) == len(set(drawn)) == min(len(fresh), int(np.ceil(len(established) / 9)))
        assert len(queue) == len(set(queue))


def test_fresh_items_are_drawn_by_the_seed_and_stand_between_the_others(world: World) -> None:
    ids, table, _, exposures, clicks, available = world
    queues = TopicQueues.build(ItemTopics.of(ids, table), exposures, clicks, available, Recall(), np.random.default_rng(0))
    draws = [queues.queue(0, draw_seed=draw_seed) for draw_seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    places = np.flatnonzero(queues.is_fresh(draws[0]))
    assert places.tolist() == [9, 19, 29, len(draws[0]) - 1]  # each tenth place, and the end for one more
    drawn = {item for draw_seed in range(100) for item in queues.queue(0, draw_seed=draw_seed) if queues.is_fresh(item)}
    assert drawn == set(queues.fresh_by_topic[0].tolist())  # everyone's turn comes


def test_queues_of_clicks_alone_are_ordered_by_clicks(world: World) -> None:
    ids, table, _, exposures, _, available = world
    settings, clicks = Recall(fresh_share=0), exposures.copy()
    queues = TopicQueues.build(ItemTopics.of(ids, table), clicks, clicks, available, settings, np.random.default_rng(0))
    changed = np.random.default_rng(1).choice(np.arange(1, ITEMS, dtype=np.int32), 40, replace=False)
    clicks[changed] += 10
    for found in (queues, queues.updated(changed, clicks, clicks, available)):
        counts = exposures if found is queues else clicks
        for topic in range(TOPICS):
            order = counts[found.queue(topic)].tolist()
            assert len(order) > 20
            assert order == sorted(order, reverse=True)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 1.0])
def test_the_head_of_a_queue_is_its_beginning(world: World, share: float) -> None:
    ids, table, _, exposures, clicks, available = world
    settings = Recall(fresh_share=share)
    queues = TopicQueues.build(ItemTopics.of(ids, table), exposures, clicks, available, settings, np.random.default_rng(0))
    whole = queues.queue(2, draw_seed=5)
    assert len(set(whole.tolist())) == len(whole) == queues.length(2)
    assert queues.length(99) == 0
    for count in range(len(whole) + 3):
        head = queues.queue(2, count, draw_seed=5)
        assert len(head) == min(count, len(whole))
        assert np.array_equal(queues.is_fresh(head), queues.is_fresh(whole[:count]))


def everything(queues: TopicQueues) -> tuple[list[list[int]], list[int], list[int], list[int], list[int]]:
    """What queues hold, without the order of those that are equal and of the fresh ones."""
    return (
        [sorted(part.tolist()) for part in (*queues.established_by_topic, *queues.fresh_by_topic)],
        queues.kind.tolist(),
        queues.popular.tolist(),
        sorted(queues.popular_interleaved.tolist()),
        sorted(queues.fresh.tolist()),
    )


def test_queues_brought_up_to_date_are_those_built_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues_module, "MAX_POPULAR", 50)
    ids, table, lists, exposures, clicks, available = world
    topics, rng = ItemTopics.of(ids, table), np.random.default_rng(1)
    available[1:] = True
    queues = TopicQueues.build(topics, exposures, clicks, available, Recall(), rng)
    for _ in range(30):
        before = everything(queues)
        changed = rng.choice(np.arange(1, ITEMS, dtype=np.int32), 12, replace=False)
        now = exposures.copy(), clicks.copy(), available.copy()
        now[0][changed] += rng.integers(0, 9, 12)
        now[1][changed] += rng.integers(0, 3, 12)
        later = queues.updated(changed, *now)
        assert everything(later) == everything(TopicQueues.build(topics, *now, Recall(), rng))
        for part in later.established_by_topic:
            ctr = now[1][part] / np.maximum(now[0][part], 1)
            assert np.all(np.diff(ctr) <= 0)
        assert everything(queues) == before  # a request that still reads the old ones is not disturbed
        untouched = set(range(TOPICS)) - {topic for item in changed for topic in lists[item]}
        assert all(later.established_by_topic[topic] is queues.established_by_topic[topic] for topic in untouched)
        queues, (exposures, clicks, available) = later, now


def test_what_is_withdrawn_leaves_all_lists_and_may_come_back(world: World) -> None:
    ids, table, _, exposures, clicks, available = world
    available[1:] = True
    queues = TopicQueues.build(ItemTopics.of(ids, table), exposures, clicks, available, Recall(), np.random.default_rng(0))
    gone = np.arange(5, 90, dtype=np.int32)
    without = queues.updated(gone, exposures, clicks, ~np.isin(np.arange(ITEMS), gone))
    for part in (
        *without.established_by_topic,
        *without.fresh_by_topic,
        without.popular,
        without.popular_interleaved,
        without.fresh,
    ):
        assert not set(part.tolist()) & set(gone.tolist())
    assert not without.is_shown(gone).any()
    assert everything(without.updated(gone, exposures, clicks, available)) == everything(queues)


def test_all_that_is_not_fresh_comes_behind_the_popular(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues_module, "MAX_POPULAR", 20)
    ids, table, _, exposures, clicks, available = world
    queues = TopicQueues.build(ItemTopics.of(ids, table), exposures, clicks, available, Recall(), np.random.default_rng(0))
    known = [i for i in range(1, ITEMS) if available[i] and exposures[i] >= 10]
    assert queues.popular.tolist() == sorted(known, key=lambda i: (-clicks[i], i))[:20]
    for interleaved in (True, False):
        found = np.concatenate(list(queues.by_popularity(interleaved)))
        assert sorted(found.tolist()) == known
    for draw_seed in (0, 7, 10**9):
        assert sorted(np.concatenate(list(queues.fresh_from(draw_seed))).tolist()) == sorted(queues.fresh.tolist())


def test_topics_take_turns() -> None:
    lists = pa.array([None, [0], [0], [0, 1], [1], None, [2], None], pa.list_(pa.int32()))
    topics = ItemTopics.of_lists(lists)
    # Item 3 waits until topic 0 has had two; 5 and 7 have no topic and share one turn.
    assert interleaved_by_topic(np.arange(1, 8), topics).tolist() == [1, 5, 6, 2, 4, 7, 3]


def test_a_topic_of_fresh_items_alone_keeps_them_all() -> None:
    table = pa.table({"video_id": ["a", "b"], "topics": pa.array([[0], [0]], pa.list_(pa.int32()))})
    zeros = np.zeros(3, dtype=np.int64)
    queues = TopicQueues.build(
        ItemTopics.of(["", "a", "b"], table), zeros, zeros, np.ones(3, bool), Recall(), np.random.default_rng(0)
    )
    assert sorted(queues.queue(0).tolist()) == [1, 2]
    assert sorted(queues.fresh.tolist()) == [1, 2]
    assert queues.popular.tolist() == queues.queue(5).tolist() == queues.queue(-1).tolist() == []


def test_without_topics_there_are_only_popular_and_fresh(world: World) -> None:
    ids, _, _, exposures, clicks, available = world
    topics = ItemTopics.of(ids, None)
    queues = TopicQueues.build(topics, exposures, clicks, available, Recall(), np.random.default_rng(0))
    assert len(queues.queue(0)) == 0
    assert set(queues.popular.tolist()) == {i for i in range(1, ITEMS) if available[i] and exposures[i] >= 10}


def test_item_topics_follow_the_item_order(world: World) -> None:
    ids, table, lists, *_ = world
    topics = ItemTopics.of(ids, table)
    picked = np.array([7, 0, 3, 7])
    assert topics.of_items(picked).tolist() == [t for i in picked for t in lists[i]]
    places, _ = topics.pairs(picked)
    assert places.tolist() == [place for place, i in enumerate(picked) for _ in lists[i]]
    items, shared = topics.items_with_any(np.array([2, 3]))
    assert dict(zip(items.tolist(), shared.tolist(), strict=True)) == {
        i: len({2, 3} & set(lists[i])) for i in range(ITEMS) if {2, 3} & set(lists[i])
    }


def test_items_that_are_added_are_in_the_queues_as_if_they_had_been_there(world: World) -> None:
    _, _, lists, exposures, clicks, available = world
    lists[-1] = [TOPICS + 2]  # a topic that no item had so far
    topics = ItemTopics.of_lists(pa.array(lists, pa.list_(pa.int32())))
    first, settings = 250, Recall()
    few = ItemTopics.of_lists(pa.array(lists[:first], pa.list_(pa.int32())))
    grown = few.grown([np.array(each, np.int32) for each in lists[first:]])
    assert grown.offsets.tolist() == topics.offsets.tolist()
    assert grown.topics.tolist() == topics.topics.tolist()
    rng = np.random.default_rng(0)
    queues = TopicQueues.build(few, exposures[:first], clicks[:first], available[:first], settings, rng).grown(grown)
    new = np.arange(first, ITEMS, dtype=np.int32)
    assert not queues.is_shown(new).any()  # hidden at first
    queues = queues.updated(new, exposures, clicks, available)
    whole = TopicQueues.build(topics, exposures, clicks, available, settings, rng)
    assert queues.kind.tolist() == whole.kind.tolist()
    assert sorted(queues.fresh.tolist()) == sorted(whole.fresh.tolist())
    assert len(queues.fresh_by_topic) == len(whole.fresh_by_topic) == TOPICS + 3
    for mine, theirs in zip(queues.fresh_by_topic, whole.fresh_by_topic, strict=True):
        assert sorted(mine.tolist()) == sorted(theirs.tolist())
    for topic, (mine, theirs) in enumerate(zip(queues.established_by_topic, whole.established_by_topic, strict=True)):
        assert sorted(mine.tolist()) == sorted(theirs.tolist()), topic
        assert queues.ctr[mine].tolist() == whole.ctr[theirs].tolist()
    assert queues.popular.tolist() == whole.popular.tolist()
