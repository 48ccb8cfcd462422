"""The metrics of a few users by hand, and the choice of groups."""

import numpy as np

from rayrec.evaluation.experiments.gains import gain
from rayrec.evaluation.experiments.metrics import METRICS, nearest_groups, rows_of
from rayrec.evaluation.experiments.moments import Moments

FEW = {"seconds": np.array([30, 0, 90, 0]), "videos": np.array([2, 0, 4, 0]), "refreshes": np.array([1, 3, 2, 0])}


def test_metrics_by_hand() -> None:
    values = {}
    for metric in METRICS:
        above, below = rows_of(FEW, metric).sum(0)
        values[metric] = above / below
    assert values == {"UVD": 120 / 4, "UAVD": 120 / 3, "AVD": 120 / 6, "ART": 6 / 3}
    assert rows_of(FEW, "AVD", before=FEW).tolist() == [[30, 2, 30, 2], [0, 0, 0, 0], [90, 4, 90, 4], [0, 0, 0, 0]]


def group(rng: np.random.Generator, more: float, users: int = 3000) -> dict[str, np.ndarray]:
    refreshes = rng.poisson(2 * (1 + more), users)
    videos = rng.poisson(4 * refreshes)
    return {"seconds": videos * rng.lognormal(2, 0.5, users), "videos": videos, "refreshes": refreshes}


def test_the_groups_that_are_nearest_groups() -> None:
    rng = np.random.default_rng(1)
    groups = [group(rng, more) for more in (0.0, 0.3, 0.6)]
    groups.insert(1, {name: column[::-1] for name, column in groups[2].items()})  # the same users in another order
    assert nearest_groups(groups) == (1, 3)


def test_what_was_before_takes_noise_away() -> None:
    rng = np.random.default_rng(2)
    plain, adjusted = [], []
    for _ in range(2):  # arms
        liking = rng.gamma(1, 4, 4000)
        before, now = (
            {"refreshes": refreshes, "videos": refreshes, "seconds": 8.0 * refreshes}
            for refreshes in rng.poisson(liking, (2, 4000))
        )
        plain.append(Moments.of(rows_of(now, "UVD")))
        adjusted.append(Moments.of(rows_of(now, "UVD", before)))
    assert float(gain(*adjusted).error) < 0.7 * float(gain(*plain).error)
    assert abs(float(gain(*adjusted).z)) < 3
