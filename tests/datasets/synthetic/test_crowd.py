"""The crowd is of the society that the log is from, chooses as its people do, and stays while it is pleased."""

import numpy as np
import pytest

from rayrec.config import WorldData
from rayrec.datasets.synthetic.choice import click_probability
from rayrec.datasets.synthetic.crowd import Crowd
from rayrec.datasets.synthetic.simulation import make_videos, random_of, society
from rayrec.datasets.synthetic.world import make, taxonomy_of

WORLD = WorldData(videos=48, users=60, requests=200, days=2, topics=8)
PEOPLE, DAYS = 4000, 3


@pytest.fixture(scope="module")
def crowd() -> Crowd:
    taxonomy = taxonomy_of(WORLD)
    return Crowd.of(WORLD, taxonomy, make_videos(WORLD, taxonomy, 7).stock, PEOPLE, DAYS, 7, 0)


def test_the_age_groups_are_those_of_the_log() -> None:
    groups, appeal = society(WORLD, taxonomy_of(WORLD), random_of(7, 2))
    logged = make(WORLD, 7).users["age_group"].to_pylist()
    assert len(set(zip(groups.tolist(), logged, strict=True))) == len(set(logged))
    np.testing.assert_allclose(appeal.sum(1), 1)


def test_clicks_follow_the_choice_model(crowd: Crowd) -> None:
    rng, who = np.random.default_rng(0), np.arange(PEOPLE)
    pages = rng.integers(0, WORLD.videos, (PEOPLE, 10))
    pages[:, 9] = -1
    found = crowd.react(who, 1, pages, rng)
    expected = np.array(
        [
            [
                click_probability(
                    crowd.tastes.affinity(person, 1, crowd.stock.shown[[video]])[0], crowd.stock.quality[video], place
                )
                for place, video in enumerate(page[:9])
            ]
            for person, page in zip(who[:500], pages[:500], strict=True)
        ]
    )
    error = np.sqrt((expected * (1 - expected)).sum()) / expected.size
    assert abs(found.clicked[:500, :9].mean() - expected.mean()) < 4 * error
    assert not found.clicked[:, 9].any()
    assert ((found.watch_s > 0) == found.clicked).all()
    assert (found.watch_s[:, :9] <= crowd.stock.duration_s[pages[:, :9]]).all()


def test_who_is_pleased_stays_more_often_and_nobody_without_a_page(crowd: Crowd) -> None:
    rng, who = np.random.default_rng(0), np.arange(PEOPLE)
    found = crowd.react(who, 0, rng.integers(0, WORLD.videos, (PEOPLE, 10)), rng)
    clicks = found.clicked.sum(1)
    assert found.stays[clicks >= 5].mean() > found.stays[clicks == 0].mean() + 0.2
    assert not crowd.react(who, 0, np.full((PEOPLE, 10), -1), rng).stays.any()


def test_some_come_nearly_every_day_and_most_rarely(crowd: Crowd) -> None:
    days = [crowd.visitors(np.random.default_rng(day))[0] for day in range(50)]
    visits = np.bincount(np.concatenate(days), minlength=PEOPLE)
    assert np.median(visits) < 12
    assert visits.max() > 40
    who, at = crowd.visitors(np.random.default_rng(0))
    assert len(set(who.tolist())) == len(who) == len(at)
    assert (at >= 0).all()
    assert (at < 86_400_000).all()


def test_crowds_are_other_people_and_repeat_themselves(crowd: Crowd) -> None:
    taxonomy = taxonomy_of(WORLD)
    again, other = (Crowd.of(WORLD, taxonomy, crowd.stock, PEOPLE, DAYS, 7, number) for number in (0, 1))
    assert np.array_equal(again.tastes.interest, crowd.tastes.interest)
    assert not np.array_equal(other.tastes.interest, crowd.tastes.interest)
