"""A page from scored candidates."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chisquare

from rayrec.config import Selection
from rayrec.recall import selection
from rayrec.recall.queues import ItemTopics
from rayrec.recall.selection import Odds, Selected, Selector, best

# Items 1-12: item i has topic i % 3, items 9-12 topic 5 too; three authors, that of items 10-12 is not known.
TOPICS = ItemTopics.of_lists(pa.array([None, *([i % 3] + [5] * (i > 8) for i in range(1, 13))], pa.list_(pa.int32())))
AUTHOR_OF = np.array([0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 0, 0, 0], dtype=np.int32)
ITEMS = np.arange(1, 13, dtype=np.int32)
SCORES = np.linspace(0.9, 0.1, 12).astype(np.float32)  # the first item is the best
NONE_FRESH = np.zeros(12, bool)


def alike(rows: np.ndarray) -> np.ndarray:
    return np.full(len(rows), 1 / len(rows))


def page(k: int, fresh: np.ndarray = NONE_FRESH, draw_seed: int = 0, **settings: Any) -> list[int]:
    return ITEMS[selected(k, fresh, draw_seed, **settings).rows].tolist()


def selected(k: int, fresh: np.ndarray = NONE_FRESH, draw_seed: int = 0, odds: Odds = alike, **settings: Any) -> Selected:
    return Selector(Selection(**settings), TOPICS, AUTHOR_OF).select(ITEMS, SCORES, fresh, k, draw_seed, odds)


def test_the_best_come_in_order() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.9, 0.2, 0.3])
    assert best(scores, 3).tolist() in ([1, 3, 2], [3, 1, 2])
    assert sorted(best(scores, 100).tolist()) == list(range(6))
    assert best(scores, 0).tolist() == best(scores[:0], 3).tolist() == []
    assert page(4) == [1, 2, 3, 4]
    assert page(100) == ITEMS.tolist()


@pytest.mark.parametrize("kind", ["random", "sorted", "equal", "few finite"])
def test_the_best_of_very_many_are_those_of_a_sort(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "SAMPLE", 100)
    scores = np.random.default_rng(0).permutation(5000).astype(np.float32)
    if kind == "sorted":
        scores.sort()
    elif kind == "equal":
        scores %= 3
    elif kind == "few finite":
        scores[scores < 4990] = -np.inf
    for k in (1, 30, 700, 5000):
        rows = best(scores, k)
        assert scores[rows].tolist() == sorted(scores.tolist(), reverse=True)[:k]
        assert len(set(rows.tolist())) == k


def test_at_most_so_many_of_an_author_or_a_topic() -> None:
    assert page(4, max_per_author=1) == [1, 4, 7, 10]
    assert page(6, max_per_author=1) == [1, 4, 7, 10, 11, 12]  # who is not known is not counted
    assert page(3, max_per_topic=1) == [1, 2, 3]
    assert page(7, max_per_topic=2) == [1, 2, 3, 4, 5, 6, 7]  # gives way for the last one
    assert page(5, max_per_topic=2, max_per_author=1) == [1, 4, 8, 11, 12]


def test_a_rule_gives_way_where_the_page_would_not_be_full() -> None:
    assert page(8, max_per_author=2) == [1, 2, 4, 5, 7, 8, 10, 11]
    assert page(11, max_per_author=2) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12]  # 3 and 6 are the best that were skipped
    assert page(12, max_per_author=1, max_per_topic=1) == ITEMS.tolist()


def test_fresh_videos_get_their_places_whatever_their_score() -> None:
    fresh = ITEMS > 9
    found = page(6, fresh, explore=1 / 3)
    assert found[:2] + found[3:5] == [1, 2, 3, 4]
    assert {found[2], found[5]} < {10, 11, 12}
    tried = {found[place] for draw_seed in range(30) for found in [page(6, fresh, draw_seed, explore=1 / 3)] for place in (2, 5)}
    assert tried == {10, 11, 12}
    assert page(4, NONE_FRESH, explore=1) == [1, 2, 3, 4]
    assert sorted(page(12, fresh, explore=0.5)) == ITEMS.tolist()


def test_small_shares_explore_in_some_of_the_pages() -> None:
    fresh = ITEMS > 9
    count = sum(any(item > 9 for item in page(5, fresh, draw_seed, explore=0.1)) for draw_seed in range(400))
    assert count == pytest.approx(200, abs=50)


def test_exploration_keeps_to_the_rules() -> None:
    fresh = ITEMS > 9  # all on topic 5
    found = page(6, fresh, explore=0.5, max_per_topic=1)
    assert sum(item > 9 for item in found) == 1
    assert len(found) == len(set(found)) == 6


def test_a_video_is_shown_as_often_as_its_odds_say() -> None:
    """Over many requests with the same candidates: at the first place that explores, and at the second one given the first."""
    fresh = ITEMS > 7
    weight = np.arange(1.0, 13.0)

    def by_weight(rows: np.ndarray) -> np.ndarray:
        return np.asarray(weight[rows] / weight[rows].sum())

    first: dict[int, float] = {}
    shown, requests = Counter[tuple[int, int]](), 6000
    for draw_seed in range(requests):
        found = selected(4, fresh, draw_seed, by_weight, explore=0.5)
        assert [draw.position for draw in found.draws] == [1, 3]
        for draw in found.draws:
            assert draw.rows[draw.chosen] == found.rows[draw.position]
            assert draw.odds.sum() == pytest.approx(1)
        one, other = found.draws
        assert one.rows[one.chosen] not in other.rows
        first[int(one.rows[one.chosen])] = one.propensity
        shown[int(found.rows[1]), int(found.rows[3])] += 1
    assert first == pytest.approx({row: weight[row] / weight[7:].sum() for row in range(7, 12)})
    expected = {
        (one, other): first[one] * weight[other] / (weight[7:].sum() - weight[one])
        for one in first
        for other in first
        if one != other
    }
    assert set(shown) == set(expected)
    assert chisquare([shown[pair] for pair in expected], [requests * odds for odds in expected.values()]).pvalue > 0.01


def test_so_many_compete_for_a_place_and_each_of_them_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "ARMS", 3)
    draws = [draw for draw_seed in range(50) for draw in selected(2, ITEMS > 4, draw_seed, explore=0.5).draws]
    assert {len(draw.rows) for draw in draws} == {3}
    assert {draw.propensity for draw in draws} == {1 / 3}
    assert set(np.concatenate([draw.rows for draw in draws]).tolist()) == set(range(4, 12))


def test_the_same_seed_draws_the_same_and_nothing_is_drawn_without_exploration() -> None:
    fresh = ITEMS > 6
    one, other = (selected(6, fresh, 5, explore=0.5) for _ in "12")
    assert one.rows.tolist() == other.rows.tolist()
    assert [draw.rows.tolist() for draw in one.draws] == [draw.rows.tolist() for draw in other.draws]
    assert selected(6, fresh, 5).draws == selected(6, fresh, 5, max_per_author=2).draws == []
    assert selected(6, fresh, 5).rows.tolist() == list(range(6))
