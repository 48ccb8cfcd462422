"""Off-policy estimates where what the other ranker earns is known."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from rayrec.evaluation.off_policy import Estimate, ShownLog, doubly_robust, ips, on_policy, snips

VIDEOS = 5
EARNS = np.array([0.05, 0.1, 0.2, 0.4, 0.6])  # the click rate of each video, for users of kind 0; reversed for kind 1


def odds(kind: np.ndarray, sharpness: float) -> np.ndarray:
    """Of showing each video to users [N]: [N, VIDEOS]."""
    tables = np.exp(sharpness * np.stack([np.arange(VIDEOS), np.arange(VIDEOS)[::-1]]))
    return (tables / tables.sum(1, keepdims=True))[kind]


@dataclass(frozen=True)
class World:
    """A log, and what is true of it."""

    log: ShownLog
    shown: np.ndarray  # [N], the videos
    earned: np.ndarray  # [N, VIDEOS], the click rates
    target: np.ndarray  # [N, VIDEOS], the other ranker's odds


def drawn(rng: np.random.Generator, rows: int) -> World:
    kind, at = rng.integers(0, 2, rows), np.arange(rows)
    logged, target, earned = odds(kind, 0.3), odds(kind, 0.8), np.stack([EARNS, EARNS[::-1]])[kind]
    shown = (logged.cumsum(1) > rng.random((rows, 1))).argmax(1)
    clicks = (rng.random(rows) < earned[at, shown]).astype(float)
    return World(ShownLog(clicks, logged[at, shown], target[at, shown]), shown, earned, target)


def truth(sharpness: float) -> float:
    """What a ranker earns: both kinds of users are mirror images of one another."""
    return float((odds(np.array([0]), sharpness)[0] * EARNS).sum())


def with_model(world: World, expected: np.ndarray, log: ShownLog | None = None) -> Estimate:
    """Doubly robust, with a model's click rates [N, VIDEOS]."""
    own = expected[np.arange(len(expected)), world.shown]
    return doubly_robust(log or world.log, own, (world.target * expected).sum(1))


def wrong_odds(log: ShownLog) -> ShownLog:
    return replace(log, propensities=np.full(len(log.propensities), 1 / VIDEOS))


ESTIMATORS: dict[str, Callable[[World], Estimate]] = {
    "ips": lambda world: ips(world.log),
    "snips": lambda world: snips(world.log),
    "doubly robust, a wrong model": lambda world: with_model(world, np.full_like(world.earned, 0.9)),
    "doubly robust, wrong odds": lambda world: with_model(world, world.earned, wrong_odds(world.log)),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_they_find_what_the_other_ranker_earns(name: str) -> None:
    rng = np.random.default_rng(1)
    found = [ESTIMATORS[name](drawn(rng, 500)) for _ in range(300)]
    values, errors = np.array([one.value for one in found]), np.array([one.error for one in found])
    assert values.mean() == pytest.approx(truth(0.8), abs=4 * values.std() / np.sqrt(300))
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)


def test_they_differ_from_what_the_log_earned_and_in_their_noise() -> None:
    rng = np.random.default_rng(2)
    worlds = [drawn(rng, 500) for _ in range(200)]
    assert np.mean([on_policy(world.log).value for world in worlds]) == pytest.approx(truth(0.3), abs=0.01)
    assert abs(np.mean([ips(wrong_odds(world.log)).value for world in worlds]) - truth(0.8)) > 0.03
    noise = {
        "ips": np.std([ips(world.log).value for world in worlds]),
        "snips": np.std([snips(world.log).value for world in worlds]),
        "robust": np.std([with_model(world, world.earned).value for world in worlds]),
    }
    assert noise["robust"] < noise["snips"] < noise["ips"]


def test_the_same_ranker_earns_what_the_log_earned() -> None:
    log = drawn(np.random.default_rng(3), 400).log
    same = replace(log, targets=log.propensities)
    for estimate in (ips(same), snips(same), on_policy(log)):
        assert estimate.value == pytest.approx(log.rewards.mean())
        assert estimate.error == pytest.approx(log.rewards.std(ddof=1) / 20)
        assert estimate.effective_rows == pytest.approx(400)


def test_rows_of_a_user_depend_on_one_another() -> None:
    """The same rows three times tell no more than once."""
    log = drawn(np.random.default_rng(4), 300).log
    thrice = ShownLog(*(np.tile(getattr(log, name), 3) for name in ("rewards", "propensities", "targets")))
    by_user = replace(thrice, users=np.tile(np.arange(300), 3))
    for estimator in (ips, snips):
        assert estimator(by_user).error == pytest.approx(estimator(log).error)
        assert estimator(thrice).error == pytest.approx(estimator(log).error / np.sqrt(3), rel=0.01)


def test_capped_weights() -> None:
    log = drawn(np.random.default_rng(5), 400).log
    capped = replace(log, max_weight=1.2)
    assert capped.weights.max() == 1.2
    assert ips(capped).error < ips(log).error
    assert ips(capped).value < ips(log).value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensities": np.array([0.5, 0.0])}, "row 1 of the log has 0.0 in propensities"),
        ({"targets": np.array([1.5, 0.0])}, "row 0 of the log has 1.5 in targets"),
        ({"rewards": np.array([1.0])}, "as many rewards, propensities and targets"),
    ],
)
def test_logs_that_can_not_be(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ShownLog(np.ones(2), np.full(2, 0.5), np.full(2, 0.5)), **change)


def test_a_ranker_that_shows_nothing_of_the_log() -> None:
    with pytest.raises(ValueError, match="shows no video of the log"):
        snips(ShownLog(np.ones(2), np.full(2, 0.5), np.zeros(2)))
