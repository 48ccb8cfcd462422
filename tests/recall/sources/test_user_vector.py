"""The items nearest to a user's vector, against a loop over the whole catalog."""

from dataclasses import replace

import numpy as np
import pytest

from rayrec.config import ConfigError, Recall, load
from rayrec.recall import sources
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.pipeline import RecallPipeline, Trace
from rayrec.recall.sources.user_vector import Options, UserVector
from tests.recall.small_catalog import ITEMS, NOTHING, make_queues, query
from tests.recall.test_vectors import expected, made_up

VECTORS = made_up(21)


def found(clicked: list[int], count: int, exclusions: Exclusions = NOTHING, clicks: int = 128) -> list[int]:
    source = UserVector(Recall(clicks=clicks), Options(), replace(ITEMS, vectors=VECTORS))
    return source.candidates(query(clicked, exclusions), make_queues(Recall()), count).items.tolist()


def test_the_nearest_items_that_may_be_shown() -> None:
    assert found([3, 8, 12], 6) == expected(VECTORS, [3, 8, 12], 6)
    assert found([3, 8, 12], 6, clicks=2) == expected(VECTORS, [8, 12], 6)
    best = expected(VECTORS, [3], 4)
    assert found([3], 5, Exclusions.of(np.array(best))) == expected(VECTORS, [3], 9)[4:]
    assert found([], 6) == found([3], 0) == []


def test_it_goes_on_where_many_of_the_nearest_are_hidden_or_of_blocked_authors() -> None:
    ranking = expected(VECTORS, [3, 8], 20)
    blocked = Exclusions.of(np.array([], np.int32), np.array([1, 2, 3], np.int32), ITEMS.author_of)
    assert found([3, 8], 5, blocked) == [item for item in ranking if item % 5 in (0, 4)][:5]
    shown = np.zeros(21, bool)
    shown[ranking[-3:]] = True
    queues = make_queues(Recall()).updated(np.arange(1, 21, dtype=np.int32), np.full(21, 100), np.full(21, 50), shown)
    source = UserVector(Recall(), Options(), replace(ITEMS, vectors=VECTORS))
    assert source.candidates(query([3, 8]), queues, 2).items.tolist() == ranking[-3:-1]


def test_it_is_a_source_of_the_pipeline_like_the_others() -> None:
    config = load(None, ["recall.sources={user_vector: 0.5, topics: 0.5}", "recall.candidates=8", "collaborative={}"])
    sources.check(config)
    pipeline = RecallPipeline(config.recall, config.selection, replace(ITEMS, vectors=VECTORS))
    mix = pipeline.candidates(query([3, 8]), make_queues(config.recall), 8, Trace())
    assert mix.items[:4].tolist() == expected(VECTORS, [3, 8], 4)
    assert pipeline.labels[mix.sources[:5]].tolist() == ["taste"] * 4 + ["topic"]
    stranger = pipeline.candidates(query([]), make_queues(config.recall), 8, Trace())
    assert len(stranger) == 8
    with pytest.raises(ConfigError, match=r"recall.sources.user_vector: .*choose a `collaborative.model` that has some"):
        RecallPipeline(config.recall, config.selection, ITEMS)
