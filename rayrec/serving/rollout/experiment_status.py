"""How the experiments of a config stand, from the events of the store: who was in which arm, what they did, and what that proves.

Each gain is tested by itself, by a test that may be looked at any time (`evaluation/experiments/sequential.py`). It is a look at
all events so far, not the narrowest of all looks: users come back, and their numbers go on growing after they were counted first.
"""

import datetime
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rayrec.config import Config, ConfigError, Experiment
from rayrec.evaluation.experiments.gains import gain
from rayrec.evaluation.experiments.mismatch import mismatch_log_evidence
from rayrec.evaluation.experiments.moments import Moments
from rayrec.evaluation.experiments.power import detectable
from rayrec.evaluation.experiments.sequential import FIRST, Mixture, Monitor
from rayrec.serving.assignment import is_running
from rayrec.serving.rollout.tally import CLICKS, IMPRESSIONS, SEVERAL, WATCH_S, Tally
from rayrec.serving.state.opening import is_redis, open_store, state_path
from rayrec.serving.state.store import Exposure, StateStore

MISMATCH = 0.001  # below it, the shares of the arms are taken for wrong
AT_ONCE = 50_000  # events that are read
USERS = 3  # a column of ones behind the sums of `Tally`
# A metric is a ratio of users' totals.
METRICS = {"clicks per user": (CLICKS, USERS), "click rate": (CLICKS, IMPRESSIONS), "watch seconds per user": (WATCH_S, USERS)}


@dataclass(frozen=True)
class Compared:
    """A metric of an arm, and how it compares with the control's. Gains are relative: .01 is 1 % more."""

    metric: str
    value: float | None  # None without users or impressions
    gain: float | None = None  # None for the control, and while nothing can be said
    low: float | None = None  # limits that cover the gain at all times with a probability of 95 %
    high: float | None = None
    p_value: float | None = None  # always valid
    detectable: float | None = None  # the gain that is found with a probability of 80 % or more with the users so far
    detectable_planned: float | None = None  # likewise, with the planned users


@dataclass(frozen=True)
class ArmStatus:
    """An arm, and what its users did."""

    arm: str
    share: float  # of all users
    users: int
    impressions: int
    clicks: int
    watch_s: float
    metrics: list[Compared]


@dataclass(frozen=True)
class ExperimentStatus:
    """An experiment, the control first."""

    name: str
    running: bool
    until: datetime.date | None
    arms: list[ArmStatus]
    several: int  # users who were in several arms, because the config has changed; they are left out
    mismatch_p_value: float  # of the shares that the arms should have, always valid
    mismatch: bool  # whether they don't have them, so that no gain means anything


def status_of(tally: Tally, now: int) -> ExperimentStatus:
    """How an experiment stands at a time (UTC ms)."""
    experiment = tally.experiment
    arm_of, sums = tally.users()
    values = [sums[arm_of == arm] for arm in range(len(experiment.arms))]
    counts, shares = np.array([len(each) for each in values]), np.array([arm.share for arm in experiment.arms.values()])
    p_value = float(np.exp(-max(mismatch_log_evidence(counts, shares), 0.0)))
    arms = [
        ArmStatus(
            name,
            arm.share,
            len(own),
            int(own[:, IMPRESSIONS].sum()),
            int(own[:, CLICKS].sum()),
            float(own[:, WATCH_S].sum()),
            _compared(experiment, values[0], own) if place else [Compared(metric, _value(own, metric)) for metric in METRICS],
        )
        for place, ((name, arm), own) in enumerate(zip(experiment.arms.items(), values, strict=True))
    ]
    several = int((arm_of == SEVERAL).sum())
    return ExperimentStatus(tally.name, is_running(experiment, now), experiment.until, arms, several, p_value, p_value <= MISMATCH)


class Reader:
    """The statuses of a store's experiments. It reads each event once, so that it may be asked again and again, in any thread."""

    def __init__(self, experiments: Mapping[str, Experiment], after: int = 0, exposure: Exposure = "impression") -> None:
        """Of the events whose number is above `after`."""
        self._tallies = [Tally(name, experiment, exposure) for name, experiment in experiments.items()]
        self._upto = after  # the number of the last event that was read
        self._reading, self._last = threading.Lock(), list[ExperimentStatus]()

    def statuses(self, store: StateStore, now: int, at_most_s: float = math.inf) -> list[ExperimentStatus]:
        """After the events up to now (UTC ms) or, if reading takes longer than `at_most_s`, the older ones of them.

        A caller who would have to wait for another one's reading gets the statuses that were found before. Raises what the store
        raises.
        """
        if not self._reading.acquire(blocking=math.isinf(at_most_s)):
            return self._last
        try:
            until, latest = time.monotonic() + at_most_s, store.latest() if self._tallies else 0
            while self._upto < latest and time.monotonic() < until:
                upto = min(self._upto + AT_ONCE, latest)
                for events in list(store.read(self._upto + 1, upto)):  # all of them, or none if the store fails
                    for tally in self._tallies:
                        tally.take(events)
                self._upto = upto
            self._last = [status_of(tally, now) for tally in self._tallies]
            return self._last
        finally:
            self._reading.release()


def read_statuses(config: Config, now: int) -> list[ExperimentStatus]:
    """Reads all events of the store. Raises `ConfigError` without experiments or events, and what the store raises."""
    if not config.serving.experiments:
        raise ConfigError("the config has no experiments; add some to serving.experiments")
    if not is_redis(config) and not state_path(config).exists():
        raise ConfigError(f"no service has recorded events in this workspace: there is no file {state_path(config)}")
    store = open_store(config)
    try:
        return Reader(config.serving.experiments, exposure=store.exposure).statuses(store, now)
    finally:
        store.close()


def _compared(experiment: Experiment, control: np.ndarray, treatment: np.ndarray) -> list[Compared]:
    """All metrics of an arm; arrays [users, 3]."""
    values = [_value(treatment, metric) for metric in METRICS]
    if 2 * min(len(control), len(treatment)) < FIRST:
        return [Compared(metric, value) for metric, value in zip(METRICS, values, strict=True)]
    found = gain(_moments(_begun(control, treatment)), _moments(_begun(treatment, control)))
    users = len(control) + len(treatment)
    mixture = Mixture.for_users(experiment.users)
    known = Monitor(mixture).after(found, np.array(users))
    compared = []
    for place, (metric, value) in enumerate(zip(METRICS, values, strict=True)):
        if not np.isfinite(known.interval.high[place]):
            compared.append(Compared(metric, value))
            continue
        deviation = float(found.error[place]) * users**0.5
        seen, planned = (detectable(deviation, count, lambda n: float(mixture.radius(n))) for count in (users, experiment.users))
        compared.append(
            Compared(
                metric,
                value,
                gain=float(found.relative[place]),
                low=float(known.interval.low[place]),
                high=float(known.interval.high[place]),
                p_value=float(known.p_value[place]),
                detectable=seen,
                detectable_planned=planned,
            )
        )
    return compared


def _begun(sums: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The sums of an arm, as if one of its users had done what nobody there has done yet, as much as others who do it.

    A logarithm needs more than nothing. It takes nothing from the test's care: the arm is better than it seems.
    """
    nothing = ~sums.any(axis=0) & others.any(axis=0)
    if not nothing.any():
        return sums
    begun = sums.copy()
    begun[0, nothing] = (others.sum(axis=0) / np.maximum((others > 0).sum(axis=0), 1))[nothing]
    return begun


def _moments(sums: np.ndarray) -> Moments:
    """Of the two numbers of each metric: [metrics] of users [N, 2]."""
    columns = np.column_stack([sums, np.ones(len(sums))])
    return Moments.of(np.stack([columns[:, pair] for pair in METRICS.values()]))


def _value(sums: np.ndarray, metric: str) -> float | None:
    above, below = (len(sums) if column == USERS else float(sums[:, column].sum()) for column in METRICS[metric])
    return above / below if below else None
