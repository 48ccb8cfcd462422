"""The four metrics by which Pu et al. (2020) compare two ways to recommend, and the choice of the groups of users for it.

Each is a ratio of users' totals, so that `gains` has its gain and error. They divide users into equal groups, measure these for
some days while nothing differs, and run the experiment on the two groups that are most alike.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rayrec.evaluation.experiments.gains import gain
from rayrec.evaluation.experiments.moments import Moments

Users = Mapping[str, np.ndarray]
"""What each user of a group did: `seconds` and `videos` watched, `refreshes` of the feed, each [N], 0 for one who did not come."""


class Ratio(NamedTuple):
    """The total of one column, divided by that of another. `drawn` counts all users, `came` those who refreshed or watched."""

    above: str
    below: str


METRICS = {
    "UVD": Ratio("seconds", "drawn"),  # watch time in all, for each user who was drawn into the group
    "UAVD": Ratio("seconds", "came"),  # watch time of a user
    "AVD": Ratio("seconds", "videos"),  # watch time of a video
    "ART": Ratio("refreshes", "came"),  # refreshes of a user
}


def rows_of(users: Users, metric: str, before: Users | None = None) -> np.ndarray:
    """What `Moments` takes of each user for a metric, [N, 2]; [N, 4] with the same of the time `before` the experiment."""
    columns = [_column(users, name) for name in METRICS[metric]]
    if before is not None:
        columns += [_column(before, name) for name in METRICS[metric]]
    return np.stack(columns, axis=1).astype(float)


def nearest_groups(groups: Sequence[Users]) -> tuple[int, int]:
    """The places of the two groups whose metrics differ the least: by the sum of squared differences, each in its errors."""

    def apart(pair: tuple[int, int]) -> float:
        moments = [{metric: Moments.of(rows_of(groups[place], metric)) for metric in METRICS} for place in pair]
        return sum(float(gain(moments[0][metric], moments[1][metric]).z) ** 2 for metric in METRICS)

    return min(itertools.combinations(range(len(groups)), 2), key=apart)


def _column(users: Users, name: str) -> np.ndarray:
    if name == "drawn":
        return np.ones(len(users["seconds"]))
    if name == "came":
        return (users["refreshes"] > 0) | (users["videos"] > 0)
    return users[name]
