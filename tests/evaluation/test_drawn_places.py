"""Estimates from drawn places where the truth is known, and what the report says of them."""

import numpy as np
import pytest

from rayrec.evaluation.drawn_places import AS_DRAWN, DOUBLY_ROBUST, IPS, SNIPS, TRUTH, UNWEIGHTED, DrawnPlaces, Place, greedy
from rayrec.evaluation.drawn_report import SERVED, DrawnResult, interval, picture, table
from rayrec.evaluation.off_policy import Estimate

EARNS = {"lively": 0.6, "quiet": 0.1}  # the click rate of the first video of a place, by the kind of its user
EARNED_BY_OTHERS = 0.3
FIRST = {"lively": 0.8, "quiet": 0.2}  # the odds of the first video
TRUTH_OF_FIRST = (0.6 + 0.1) / 2


def places(count: int, seed: int = 0, per_user: int = 4) -> list[Place]:
    """Two videos compete for each place. The other ranker likes the first, which the log shows to those who like it, too."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        kind = ("lively", "quiet")[number // per_user % 2]
        chosen = int(rng.random() > FIRST[kind])
        clicked = bool(rng.random() < (EARNED_BY_OTHERS if chosen else EARNS[kind]))
        propensity = (FIRST[kind], 1 - FIRST[kind])[chosen]
        found.append(
            Place(number // per_user, clicked, propensity, chosen, np.array([0.7, 0.3]), np.array([0.7, 0.3]), EARNS[kind])
        )
    return found


def test_the_estimates_cover_the_truth_and_the_rates_of_the_log_do_not() -> None:
    drawn = DrawnPlaces.of(places(8000))
    found = drawn.estimates()
    assert found[TRUTH].value == pytest.approx(TRUTH_OF_FIRST)
    for name in (IPS, SNIPS, DOUBLY_ROBUST):
        low, high = interval(found[name])
        assert low < TRUTH_OF_FIRST < high
        assert high - low < 0.1
    for name in (AS_DRAWN, UNWEIGHTED):
        low, high = interval(found[name])
        assert not low < TRUTH_OF_FIRST < high
    assert drawn.matches == (drawn.chosen == 0).sum()


def test_intervals_hold_as_often_as_they_say() -> None:
    held = dict.fromkeys((IPS, SNIPS, DOUBLY_ROBUST), 0)
    for seed in range(100):
        found = DrawnPlaces.of(places(800, seed)).estimates()
        for name in held:
            low, high = interval(found[name])
            held[name] += low < TRUTH_OF_FIRST < high
    assert min(held.values()) >= 88


def test_places_have_as_many_videos_as_they_had_and_equal_scores_share() -> None:
    drawn = DrawnPlaces.of(
        [
            Place(3, True, 0.5, 1, np.array([0.2, 0.2]), np.array([0.2, 0.2])),
            Place(3, False, 1.0, 0, np.array([0.1]), np.array([0.1])),
            Place(4, True, 0.25, 0, np.arange(4), np.arange(4)),
        ]
    )
    assert greedy(drawn.scores).tolist() == [[0.5, 0.5, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    assert drawn.targets.tolist() == [0.5, 1, 0]
    found = drawn.estimates()
    assert TRUTH not in found
    assert found[IPS].value == pytest.approx((0.5 / 0.5 * 1 + 1 / 1 * 0 + 0) / 3)
    assert found[UNWEIGHTED].value == pytest.approx(0.5 / 1.5)
    # What the ranker expects of its own choices, and the weighted errors of what it expects of those that were shown.
    assert found[DOUBLY_ROBUST].value == pytest.approx((0.2 + 1 * (1 - 0.2) + 0.1 + 1 * (0 - 0.1) + 3 + 0) / 3)


def test_a_small_overlap_is_said_plainly() -> None:
    enough = DrawnResult.of(DrawnPlaces.of(places(2000)))
    assert not enough.is_too_small
    assert "TOO SMALL" not in table(enough)
    few = DrawnResult.of(DrawnPlaces.of(places(40)))
    assert few.is_too_small
    assert "THE OVERLAP IS TOO SMALL: the matches say as much as" in few.in_words()
    none = DrawnResult.of(DrawnPlaces.of([place for place in places(40) if place.chosen]))
    assert list(none.estimates) == [AS_DRAWN, TRUTH]
    assert "say as much as 0 places" in none.in_words()
    assert none.facts()["too_small"]


def test_the_report_has_a_row_for_each_estimate() -> None:
    result = DrawnResult.of(DrawnPlaces.of(places(2000)), DrawnPlaces.of(places(400, seed=1)))
    lines = table(result).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:9]] == [
        AS_DRAWN,
        UNWEIGHTED,
        IPS,
        SNIPS,
        DOUBLY_ROBUST,
        TRUTH,
        SERVED,
    ]
    facts = result.facts()
    assert (facts["places"], facts["users"]) == (2000, 500)
    assert facts["estimates"][IPS]["low"] < facts["estimates"][IPS]["value"] < facts["estimates"][IPS]["high"]
    assert picture(result).startswith(b"\x89PNG")
    assert interval(Estimate(0.01, 0.1, 5)) == pytest.approx((-0.186, 0.206))
