"""People see no video twice, a better ranker is found to be better, and none where both are the same."""

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, cast

import numpy as np
import pytest

from rayrec.config import Ranker, Recall, Selection, WorldData
from rayrec.datasets.synthetic.choice import click_probability
from rayrec.datasets.synthetic.crowd import Crowd
from rayrec.datasets.synthetic.simulation import make_videos
from rayrec.datasets.synthetic.world import taxonomy_of
from rayrec.evaluation.ab_test import (
    CAME,
    MEASURES,
    PAGES,
    VIDEOS,
    WATCH_S,
    Arm,
    Memory,
    Platform,
    gains_of,
    groups_of,
    measured,
    moments_by_group,
    moments_from_json,
    moments_to_json,
    nearest_groups,
)
from rayrec.evaluation.pages import Counters
from rayrec.ranking.scorer import Scorer
from rayrec.recall.items import ItemData
from rayrec.recall.pipeline import RecallPipeline
from rayrec.recall.queues import ItemTopics

WORLD = WorldData(videos=60, users=60, requests=200, days=2, topics=8)
PEOPLE, DAYS, K = 1500, 4, 5
RECALL = Recall(sources={"popular": 1.0}, candidates=40)  # type: ignore[dict-item]


@dataclass
class FakeScorer:
    """Scores videos by a number of each, and keeps what it was asked."""

    worth: np.ndarray  # [I]
    settings: Ranker = field(default_factory=Ranker)
    asked: list[tuple[list[np.ndarray], list[np.ndarray], np.ndarray]] = field(default_factory=list)

    def score(self, user_ids: list[str], histories: Any, times: Any, at: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        assert set(user_ids) == {""}
        self.asked.append((histories, times, at))
        return np.where(candidates > 0, self.worth[candidates], 0).astype(np.float32)


def platform(worths: dict[str, np.ndarray], seed: int = 1) -> Platform:
    taxonomy = taxonomy_of(WORLD)
    crowd = Crowd.of(WORLD, taxonomy, make_videos(WORLD, taxonomy, 7).stock, PEOPLE, DAYS, 7, 0)
    ids = ["", *(f"v{number}" for number in range(WORLD.videos))]
    items = ItemData(ItemTopics.of(ids, None), np.zeros(len(ids), np.int32))
    pipeline = RecallPipeline(RECALL, Selection(), items)
    arms = {name: Arm(pipeline, cast(Scorer, FakeScorer(worth)), RECALL) for name, worth in worths.items()}
    nothing = np.zeros(len(ids), np.int64)
    available = np.arange(len(ids)) > 0
    memory = Memory.new(PEOPLE, len(ids), 16, Counters(nothing, nothing))
    return Platform(crowd, arms, memory, available, 1_700_000_000_000, K, seed)


def quality(sign: int = 1) -> np.ndarray:
    """How much the people like each video in the mean, or how little: [I]."""
    taxonomy = taxonomy_of(WORLD)
    stock = make_videos(WORLD, taxonomy, 7).stock
    tastes = Crowd.of(WORLD, taxonomy, stock, PEOPLE, DAYS, 7, 0).tastes
    affinity = tastes.affinity(np.arange(PEOPLE), 0, stock.shown)
    return np.append(0, 10 + sign * click_probability(affinity, stock.quality, 0).mean(0))


def test_nobody_sees_a_video_twice_and_what_was_done_adds_up() -> None:
    feed = platform({"all": quality()})
    did = feed.browse(range(DAYS), np.full(PEOPLE, "all", dtype=object))
    seen = feed.memory.seen.sum(1)
    assert (seen <= did[:, PAGES] * K).all()
    assert (seen == np.minimum(did[:, PAGES] * K, WORLD.videos)).all()
    assert (did[:, VIDEOS] <= seen).all()
    assert ((did[:, WATCH_S] > 0) == (did[:, VIDEOS] > 0)).all()
    assert set(np.unique(did[:, CAME])) == {0, 1}
    assert feed.memory.counters.clicks.sum() == did[:, VIDEOS].sum()
    assert feed.memory.counters.exposures.sum() == seen.sum()
    kept = np.minimum(did[:, VIDEOS], 16)
    assert ((feed.memory.clicked > 0).sum(1) == kept).all()


def test_rankers_know_only_what_was_clicked_before() -> None:
    feed = platform({"all": quality()})
    feed.browse(range(DAYS), np.full(PEOPLE, "all", dtype=object))
    asked = cast(FakeScorer, feed.arms["all"].scorer).asked
    for histories, times, at in asked:
        for history, when, now in zip(histories, times, at, strict=True):
            assert len(history) == len(when)
            assert (when < now).all()
            assert (np.diff(when) >= 0).all()


def test_a_better_ranker_is_found_to_be_better_and_an_equal_one_is_not() -> None:
    group = groups_of(PEOPLE, 2, 0)
    for worths, better in (({"a": quality(-1), "b": quality()}, True), ({"a": quality(), "b": quality()}, False)):
        feed = platform(worths)
        arm_of = np.where(group == 0, "a", "b").astype(object)
        did = feed.browse(range(DAYS), arm_of)
        control, treatment = moments_by_group(did, group, 2)
        found = gains_of(control, treatment, adjusted=False)
        assert (found["UAVD"].z > 3.5) == better
        if not better:
            assert all(abs(each.z) < 3 for each in found.values())


def test_a_person_without_an_arm_stays_away_and_memory_goes_on() -> None:
    feed = platform({"all": quality()})
    arm_of = np.where(np.arange(PEOPLE) < 100, "all", "").astype(object)
    did = feed.browse([0, 1], arm_of)
    assert did[:100].any()
    assert not did[100:].any()
    later = platform({"all": quality()})
    later.memory = Memory.of_arrays({name: array.copy() for name, array in feed.memory.arrays().items()})
    assert np.array_equal(later.browse([2], arm_of), feed.browse([2], arm_of))


def test_groups_are_equal_and_the_nearest_groups_are_chosen() -> None:
    group = groups_of(1003, 8, 3)
    assert sorted(np.bincount(group).tolist()) == [125] * 5 + [126] * 3
    rng = np.random.default_rng(0)
    did = rng.gamma(2, 1, (1003, 4))
    did[:, CAME] = did[:, CAME] > 1
    moments = moments_by_group(did, group, 8)
    values = np.array([list(measured(each).values()) for each in moments])
    watch_s, videos, pages, came = did[group == 2].sum(0)
    np.testing.assert_allclose(values[2], [watch_s / (group == 2).sum(), watch_s / came, watch_s / videos, pages / came])
    scaled = values / values.std(0)
    far = {some: max(np.linalg.norm(scaled[i] - scaled[j]) for i, j in combinations(some, 2)) for some in combinations(range(8), 3)}
    assert nearest_groups(moments, 3) == min(far, key=far.__getitem__)


def test_what_people_did_before_takes_noise_away() -> None:
    rng = np.random.default_rng(0)
    activity = rng.gamma(2, 1, 4000)
    before, did = (activity[:, None] * rng.gamma(20, 0.05, (4000, 4)) for _ in range(2))
    group = groups_of(4000, 2, 0)
    one, other = (moments_from_json(moments_to_json(each)) for each in moments_by_group(did, group, 2, before))
    plain, adjusted = (gains_of(one, other, adjusted=each)["UVD"] for each in (False, True))
    assert adjusted.error < 0.5 * plain.error
    control, treatment = (did[group == each, WATCH_S].mean() for each in (0, 1))
    assert float(plain.relative) == pytest.approx(treatment / control - 1)
    assert list(gains_of(one, other, adjusted=True)) == list(MEASURES)


def test_days_on_which_nobody_comes_pass() -> None:
    feed = platform({"all": quality()})
    did = feed.browse(range(DAYS), np.full(PEOPLE, "", dtype=object))
    assert not did.any()
    assert not feed.memory.counters.exposures.any()
