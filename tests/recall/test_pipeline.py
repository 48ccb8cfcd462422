"""The steps to a page."""

import asyncio

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Recall, Selection
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.items import ItemData
from rayrec.recall.pipeline import RecallPipeline, ScoreError, Trace, filtered
from rayrec.recall.queues import NO_ITEMS, ItemTopics, TopicQueues
from rayrec.recall.source import NO_TOPIC
from tests.recall.small_catalog import ITEMS, NOTHING, make_queues, query


@pytest.fixture
def queues() -> TopicQueues:
    return make_queues(Recall(fresh_share=0.1))


def test_excluded_items_are_filtered_and_an_item_of_two_topics_is_there_once() -> None:
    lists = pa.array([None, [0, 1], [0, 1], [1]], pa.list_(pa.int32()))
    items = ItemData(ItemTopics.of_lists(lists), np.zeros(4, np.int32))
    counters = np.array([0, 20, 20, 20]), np.array([0, 10, 9, 8])
    queues = TopicQueues.build(items.topics, *counters, np.arange(4) > 0, Recall(), np.random.default_rng(0))
    pipeline, trace = RecallPipeline(Recall(), Selection(), items), Trace()
    found = pipeline.candidates(query([1], Exclusions.of(np.array([2]))), queues, 1, trace)
    assert found.items.tolist() == [1, 3]
    assert found.topics.tolist() == [0, 1]  # of two topics the first
    assert [(step.name, step.count) for step in trace.steps] == [("source", 3), ("filter", 2), ("backfill", 2)]


def test_candidates_are_filtered_and_backfilled(queues: TopicQueues) -> None:
    exclusions = Exclusions.of(np.array([1, 2, 16]))
    pipeline = RecallPipeline(Recall(candidates=3), Selection(), ITEMS)
    found = pipeline.candidates(query([1, 5], exclusions, draw_seed=1), queues, 13, Trace())
    assert len(found) == len(set(found.items.tolist())) == 13
    assert found.items[:3].tolist() == [5, 9, 13]
    assert found.topics.tolist() == [1] * 3 + [NO_TOPIC] * 10
    assert not set(found.items.tolist()) & {1, 2, 16}
    assert pipeline.labels[found.sources].tolist() == ["topic"] * 3 + ["popular"] * 9 + ["new"]
    assert found.items[3:12].tolist() == [3, 4, 6, 7, 8, 10, 11, 12, 14]  # the most clicked first


def test_where_no_topic_brings_anything_topics_take_turns(queues: TopicQueues) -> None:
    pipeline = RecallPipeline(Recall(), Selection(), ITEMS)
    filled = pipeline.candidates(query(), queues, 8, Trace())
    popular = filled.items[pipeline.labels[filled.sources] == "popular"]
    assert sorted(popular[:4] % 4) == [0, 1, 2, 3]
    assert popular.tolist() == [1, 2, 3, 4, 5, 6, 7]  # of each topic the most clicked, then the next
    assert np.count_nonzero(pipeline.labels[filled.sources] == "new") == 1


def test_backfill_gives_all_there_is_and_no_more(queues: TopicQueues) -> None:
    pipeline, all_items = RecallPipeline(Recall(candidates=3), Selection(), ITEMS), Exclusions.of(np.arange(21))
    for draw_seed in range(7):
        for clicked in ([], [1, 2]):
            everything = pipeline.candidates(query(clicked, draw_seed=draw_seed), queues, 10**6, Trace())
            assert sorted(everything.items.tolist()) == list(range(1, 21))
    assert len(pipeline.candidates(query(exclusions=all_items), queues, 5, Trace())) == 0
    assert len(filtered(everything, all_items)) == 0


def test_fresh_items_fill_what_the_popular_ones_leave(queues: TopicQueues) -> None:
    """There are 15 popular and 5 fresh items. A tenth of 20 is 2 fresh ones; the popular ones can not fill the other 18 places."""
    pipeline = RecallPipeline(Recall(fresh_share=0.1), Selection(), ITEMS)
    for draw_seed in range(5):
        found = pipeline.candidates(query(draw_seed=draw_seed), queues, 20, Trace())
        assert sorted(found.items.tolist()) == list(range(1, 21))
        assert pipeline.labels[found.sources].tolist() == ["popular"] * 9 + ["new"] + ["popular"] * 6 + ["new"] * 4


def test_items_that_few_of_many_users_clicked_come_last() -> None:
    exposures, clicks = np.array([0, 50, 50, 50, 0]), np.array([0, 1, 20, 30, 0])
    topics = ItemTopics(np.zeros(6, np.int64), NO_ITEMS)
    queues = TopicQueues.build(topics, exposures, clicks, np.arange(5) > 0, Recall(), np.random.default_rng(0))
    pipeline = RecallPipeline(Recall(), Selection(), ItemData(topics, np.zeros(5, np.int32)))
    assert pipeline.candidates(query([1]), queues, 10, Trace()).items.tolist() == [3, 2, 4, 1]


def test_a_page_is_made_of_the_best_scored_candidates(queues: TopicQueues) -> None:
    pipeline, trace = RecallPipeline(Recall(candidates=6), Selection(), ITEMS), Trace()

    async def score(items: np.ndarray) -> np.ndarray:
        return items.astype(np.float32) / 100

    found = asyncio.run(pipeline.run(query([1, 5]), queues, score, 3, trace))
    assert len(found.candidates) == len(found.scores) == 6
    assert found.why.tolist() == ["topic" if topic >= 0 else "popular" for topic in found.candidates.topics[found.rows]]
    assert found.page.tolist() == sorted(found.candidates.items, reverse=True)[:3]
    assert [step.name for step in trace.steps] == ["source", "filter", "backfill", "score", "select"]
    more = asyncio.run(pipeline.run(query([1, 5]), queues, score, 1000, Trace()))
    assert len(more.page) == 20  # a page may be longer than `candidates`


def test_without_candidates_the_ranker_is_not_asked(queues: TopicQueues) -> None:
    async def score(items: np.ndarray) -> np.ndarray:
        raise AssertionError

    everything = Exclusions.of(np.arange(21))
    found = asyncio.run(RecallPipeline(Recall(), Selection(), ITEMS).run(query([1], everything), queues, score, 3, Trace()))
    assert len(found.page) == 0


@pytest.mark.parametrize("scores", [np.ones(7), np.ones(0), np.full(6, np.nan), np.full(6, np.inf)])
def test_scores_that_do_not_fit_the_candidates_are_refused(queues: TopicQueues, scores: np.ndarray) -> None:
    async def score(items: np.ndarray) -> np.ndarray:
        return scores

    pipeline = RecallPipeline(Recall(candidates=6), Selection(), ITEMS)
    with pytest.raises(ScoreError, match="does not fit the candidates"):
        asyncio.run(pipeline.run(query([1], NOTHING), queues, score, 3, Trace()))
