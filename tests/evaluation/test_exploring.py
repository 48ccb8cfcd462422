"""In the simulated world, what is estimated from a log of Thompson sampling is what another ranker would have been clicked."""

from functools import cache
from typing import Any, cast

import numpy as np
import pytest

from rayrec.config import Ranker, Recall, Selection, WorldData
from rayrec.datasets.synthetic.choice import click_probability
from rayrec.datasets.synthetic.crowd import Crowd
from rayrec.datasets.synthetic.simulation import make_videos
from rayrec.datasets.synthetic.world import taxonomy_of
from rayrec.evaluation.ab_test import Arm, Memory
from rayrec.evaluation.drawn_places import AS_DRAWN, DOUBLY_ROBUST, IPS, SNIPS, TRUTH, DrawnPlaces
from rayrec.evaluation.drawn_report import interval
from rayrec.evaluation.exploring import ExploringPlatform
from rayrec.evaluation.off_policy import on_policy
from rayrec.evaluation.pages import Counters
from rayrec.ranking.scorer import Scorer
from rayrec.recall.exploration import ARMS, UNIFORM
from rayrec.recall.items import ItemData
from rayrec.recall.pipeline import RecallPipeline
from rayrec.recall.queues import ItemTopics
from tests.evaluation.test_ab_test import FakeScorer

WORLD = WorldData(videos=200, users=60, requests=500, days=2, topics=8)
PEOPLE, DAYS, K = 900, 3, 5
RECALL = Recall(sources={"popular": 1.0}, candidates=40, min_exposures=60)  # type: ignore[dict-item]
IDS = ["", *(f"v{number}" for number in range(WORLD.videos))]


@cache
def worth() -> np.ndarray:
    """How likely people click each video in the mean: [I]."""
    people = crowd(0)
    probability = click_probability(people.tastes.affinity(np.arange(PEOPLE), 0, people.stock.shown), people.stock.quality, 0)
    return np.append(0, probability.mean(0))


def crowd(number: int) -> Crowd:
    taxonomy = taxonomy_of(WORLD)
    return Crowd.of(WORLD, taxonomy, make_videos(WORLD, taxonomy, 7).stock, PEOPLE, DAYS, 7, number)


def liking(sign: int) -> np.ndarray:
    return np.append(0, worth()[1:] if sign > 0 else 1 - worth()[1:])


GOALS = Ranker.model_validate({"goals": {"share": "shared", "click": "clicked"}})


class SharesFirst(FakeScorer):
    """A ranker with two goals: shares go to the videos with the least worth, and clicks to those with the most."""

    def score(self, user_ids: list[str], histories: Any, times: Any, at: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        return np.stack([liking(-1)[candidates], liking(1)[candidates]], -1).astype(np.float32)


@cache
def drawn(sign: int, chooses: bool, goals: bool = False) -> DrawnPlaces:
    """The places of a log, as a ranker sees them that likes the videos with the most worth, or for -1 those with the least."""
    other = SharesFirst(worth(), GOALS) if goals else FakeScorer(liking(sign))
    pipeline = RecallPipeline(RECALL, Selection(explore=0.4), ItemData(ItemTopics.of(IDS, None), np.zeros(len(IDS), np.int32)))
    arm = Arm(pipeline, cast(Scorer, FakeScorer(worth())), RECALL)
    nothing = np.zeros(len(IDS), np.int64)
    memory = Memory.new(PEOPLE, len(IDS), 16, Counters(nothing, nothing))
    platform = ExploringPlatform(
        crowd(int(chooses)),
        {"all": arm},
        memory,
        np.arange(len(IDS)) > 0,
        1_700_000_000_000,
        K,
        1,
        other=cast(Scorer, other),
        chooses=chooses,
    )
    platform.browse(range(DAYS), np.full(PEOPLE, "all", dtype=object))
    return platform.drawn()


def test_a_ranker_with_goals_orders_by_the_first_and_expects_clicks_by_the_click() -> None:
    found, least, most = drawn(-1, False, goals=True), drawn(-1, False), drawn(1, False)
    np.testing.assert_array_equal(found.scores, least.scores)
    np.testing.assert_array_equal(found.expected, most.expected)
    np.testing.assert_array_equal(found.truth, least.truth)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_estimates_cover_the_truth_and_what_the_log_earned_does_not(sign: int) -> None:
    found = drawn(sign, chooses=False).estimates()
    truth = found[TRUTH].value
    for name in (IPS, SNIPS, DOUBLY_ROBUST):
        low, high = interval(found[name])
        assert low < truth < high
    low, high = interval(found[AS_DRAWN])
    assert truth > high if sign > 0 else truth < low


def test_places_are_drawn_with_the_odds_that_are_kept() -> None:
    log = drawn(1, chooses=False)
    assert log.propensities.min() >= UNIFORM / ARMS
    assert (log.targets / log.propensities).mean() == pytest.approx(1, abs=0.15)  # its expectation, whatever the other ranker likes


def test_a_ranker_that_chooses_shows_what_it_likes_best_and_earns_what_is_true() -> None:
    served, log = drawn(1, chooses=True), drawn(1, chooses=False)
    assert set(served.propensities.tolist()) == {1}
    assert set(served.targets.tolist()) == {1}
    earned = on_policy(served.log())
    assert interval(earned)[0] < served.truth.mean() < interval(earned)[1]
    assert earned.value > log.clicked.mean()
