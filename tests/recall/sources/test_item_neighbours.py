"""The neighbours of the latest clicks, against a loop over the whole catalog."""

from dataclasses import replace

import numpy as np
import pytest

from rayrec.config import ConfigError, Recall, load
from rayrec.recall import sources
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.sources.item_neighbours import ItemNeighbours
from rayrec.registry import NoOptions
from tests.recall.small_catalog import ITEMS, NOTHING, make_queues, query
from tests.recall.test_neighbours import made_up, pairs

NEIGHBOURS = made_up(items=21, count=5, seed=4)


def expected(clicked: list[int], excluded: set[int], count: int) -> list[int]:
    weights = dict.fromkeys(range(1, 21), 0.0)
    for item in clicked:
        for other, weight in pairs(NEIGHBOURS, item).items():
            weights[other] += weight
    allowed = [item for item in weights if weights[item] > 0 and item not in excluded]
    return sorted(allowed, key=lambda item: -weights[item])[:count]


def found(clicked: list[int], count: int, exclusions: Exclusions = NOTHING, clicks: int = 128) -> list[int]:
    source = ItemNeighbours(Recall(clicks=clicks), NoOptions(), replace(ITEMS, neighbours=NEIGHBOURS))
    return source.candidates(query(clicked, exclusions), make_queues(Recall()), count).items.tolist()


def test_the_best_neighbours_of_the_latest_clicks() -> None:
    assert found([3, 8, 12], 4) == expected([3, 8, 12], set(), 4)
    assert found([3, 8, 12, 14], 100, clicks=2) == expected([12, 14], set(), 100)
    assert found([], 4) == found([3], 0) == []


def test_excluded_and_hidden_items_make_room_for_the_next() -> None:
    best = expected([3, 8, 12], set(), 3)
    assert found([3, 8, 12], 4, Exclusions.of(np.array(best))) == expected([3, 8, 12], set(best), 4)
    queues = make_queues(Recall())
    shown = np.arange(21) > 0
    shown[best[0]] = False
    hidden = queues.updated(np.array(best[:1], np.int32), np.full(21, 100), np.full(21, 50), shown)
    source = ItemNeighbours(Recall(), NoOptions(), replace(ITEMS, neighbours=NEIGHBOURS))
    assert source.candidates(query([3, 8, 12]), hidden, 4).items.tolist() == expected([3, 8, 12], {best[0]}, 4)


def test_a_config_or_items_without_a_model_are_refused() -> None:
    config = load(None, ["recall.sources={item_neighbours: 0.5, topics: 0.5}"])
    with pytest.raises(ConfigError, match=r"recall.sources.item_neighbours needs a collaborative model.*add `collaborative: {}`"):
        sources.check(config)
    sources.check(load(None, ["recall.sources={item_neighbours: 0.5}", "collaborative={}"]))
    with pytest.raises(ConfigError, match=r"recall.sources.item_neighbours: .*run `rayrec collaborative CONFIG`"):
        sources.build(config.recall, ITEMS)
