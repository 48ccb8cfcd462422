"""How often tests of experiments are wrong when they are looked at after every user, and how often they find a gain that is there.

    python benchmarks/experiments.py [--runs 1000] [--users 5000] [--gain 0.03]

Two arms get as many users each. A user watches a number of videos that depends on how much he likes to (Poisson, with a rate from
a gamma distribution), each for a lognormal time. The metric is seconds a video, or seconds a user, whose noise what he watched
before the experiment can take away (CUPED). `returning` users come on 7 days: they are all counted on the first day, and their
numbers grow. A fixed test is looked at once, at the end, or after every user (or visit); the sequential one always is.
"""

import argparse
from collections.abc import Callable

import numpy as np
from figures import show

from rayrec.evaluation.experiments.gains import Gain, gain
from rayrec.evaluation.experiments.moments import Moments
from rayrec.evaluation.experiments.power import detectable, fixed
from rayrec.evaluation.experiments.sequential import ALPHA, FIRST, Mixture, Monitor

AT_ONCE, DAYS = 100, 7  # AT_ONCE: runs in memory

Looks = tuple[Gain, np.ndarray]  # gains [runs, T], and users of both arms [T]


def liking(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.gamma(2.0, 1.0, shape)


def watched(rng: np.random.Generator, rate: np.ndarray, more: float) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and videos of users with these rates."""
    videos = 1 + rng.poisson(5 * rate)
    return videos * 8 * rng.lognormal(0, 0.6, rate.shape) * (1 + more), videos


def seconds_a_video(rng: np.random.Generator, runs: int, users: int, more: float) -> Looks:
    counts = np.arange(FIRST // 2, users + 1)
    arms = [np.stack(watched(rng, liking(rng, runs, users), own), axis=-1) for own in (0.0, more)]
    return gain(*(Moments.running(arm, counts) for arm in arms)), 2 * counts


def seconds_a_user(rng: np.random.Generator, runs: int, users: int, more: float, covariate: bool = False) -> Looks:
    counts, arms = np.arange(FIRST // 2, users + 1), []
    for own in (0.0, more):
        rate = liking(rng, runs, users)
        columns = [watched(rng, rate, own)[0], np.ones_like(rate), 40 * rate * rng.lognormal(0, 0.3, rate.shape)]
        arms.append(np.stack(columns[: 3 if covariate else 2], axis=-1))
    return gain(*(Moments.running(arm, counts) for arm in arms)), 2 * counts


def with_covariate(rng: np.random.Generator, runs: int, users: int, more: float) -> Looks:
    return seconds_a_user(rng, runs, users, more, covariate=True)


def returning(rng: np.random.Generator, runs: int, users: int, more: float) -> Looks:
    """Looks after every visit, of users a seventh as many, so that there are as many visits."""
    users, arms, counts = users // DAYS, [], np.zeros(0)
    for own in (0.0, more):
        rate = np.broadcast_to(liking(rng, runs, 1, users), (runs, DAYS, users))
        visits = np.stack(watched(rng, rate, own), axis=-1)  # [runs, days, users, 2], in each day one user after another
        before = visits.cumsum(1) - visits
        visits, before = (one.reshape(runs, -1, 2) for one in (visits, before))
        grown = visits[..., :, None] * before[..., None, :]
        grown = grown + np.swapaxes(grown, -1, -2) + visits[..., :, None] * visits[..., None, :]
        counts = np.minimum(np.arange(1, DAYS * users + 1), users)
        mean = visits.cumsum(1) / counts[:, None]
        scatter = grown.cumsum(1) - counts[:, None, None] * mean[..., :, None] * mean[..., None, :]
        arms.append(Moments(np.broadcast_to(counts, mean.shape[:-1]), mean, scatter))
    return gain(*arms), 2 * counts


WORLDS: dict[str, Callable[[np.random.Generator, int, int, float], Looks]] = {
    "seconds a video": seconds_a_video,
    "seconds a user": seconds_a_user,
    "seconds a user, CUPED": with_covariate,
    "seconds a video, returning users": returning,
}


def alarms(seen: Gain, users: np.ndarray) -> np.ndarray:
    """Which of the three ways found a gain in each run: bool [runs, 3]."""
    monitor = Monitor(Mixture.for_users(users[-1]))
    for place in np.flatnonzero(users >= FIRST):
        monitor = monitor.after(Gain(seen.log_ratio[:, place], seen.error[:, place]), users[place])
    late = seen.p_value[:, users >= FIRST] <= ALPHA
    return np.stack([late[:, -1], late.any(1), monitor.decided], axis=1)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=1000)
    arguments.add_argument("--users", type=int, default=5000, help="of each arm")
    arguments.add_argument("--gain", type=float, default=0.03, help="that is looked for")
    given = arguments.parse_args()
    rows = []
    for name, world in WORLDS.items():
        for more in (0.0, given.gain):
            found, errors, users = [], [], np.zeros(1)
            for start in range(0, given.runs, AT_ONCE):
                rng = np.random.default_rng((start, len(rows)))
                seen, users = world(rng, min(AT_ONCE, given.runs - start), given.users, more)
                found.append(alarms(seen, users))
                errors.append(seen.error[:, -1])
            once, always, sequential = np.concatenate(found).mean(0)
            deviation = float(np.mean(np.concatenate(errors)) * users[-1] ** 0.5)
            mixture = Mixture.for_users(users[-1])
            rows.append(
                {
                    "metric": name,
                    "gain": more,
                    "fixed, once": once,
                    "fixed, after every user": always,
                    "sequential, after every user": sequential,
                    "detectable, fixed": detectable(deviation, users[-1], fixed()),
                    "detectable, sequential": detectable(deviation, users[-1], mixture.radius),
                }
            )
    show(f"share of {given.runs} experiments that called a gain or a loss, {given.users} users an arm", rows)


if __name__ == "__main__":
    main()
