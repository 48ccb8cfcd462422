"""A test of a gain that may be looked at after every user: its p-values and intervals are right at all times together.

A fixed test that is looked at again and again finds a gain in time where there is none. Here the likelihood of what was seen,
with a gain drawn from a normal distribution around zero, is compared with its likelihood without a gain (mSPRT; Robbins, 1970;
Johari et al., "Peeking at A/B Tests", KDD 2017). Without a gain, this evidence has an expectation of 1 and exceeds 1 / alpha at
any time with a probability of at most alpha (Ville's inequality). The gains that the evidence does not exclude make a confidence
sequence (Howard et al., "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics, 2021). Variances
are estimated, so this holds asymptotically, from some hundreds of users on (Waudby-Smith et al., "Time-uniform central limit
theory and asymptotic confidence sequences", Annals of Statistics, 2024, theorem 2.2).

The theorem is about users who come one after another, each with what is known of him by then. Where users come back, their
numbers grow after they were counted first; docs/results.md says how often such tests were wrong.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import lambertw

from rayrec.evaluation.experiments.gains import Gain, Interval

ALPHA = 0.05
FIRST = 200  # users of both arms, before whom nothing is said: estimated variances are not near enough to the true ones
EVERYTHING = Interval(np.array(-1.0), np.array(np.inf))


@dataclass(frozen=True)
class Mixture:
    """The normal distribution of gains that the evidence averages over. `spread` is its variance, one user's variance being 1."""

    spread: float

    @classmethod
    def for_users(cls, users: float, alpha: float = ALPHA) -> "Mixture":
        """The one whose interval is the narrowest at so many users. At half or twice as many it is hardly wider."""
        return cls(float(-lambertw(-(alpha**2) / np.e, -1).real - 1) / users)

    def log_evidence(self, z: np.ndarray, users: np.ndarray) -> np.ndarray:
        """The logarithm of the evidence against no gain, of an estimate that is `z` standard errors from it."""
        weight = self.spread * np.asarray(users, float)
        return 0.5 * (z**2 * weight / (1 + weight) - np.log1p(weight))

    def radius(self, users: np.ndarray | float, alpha: float = ALPHA) -> np.ndarray:
        """How many standard errors the confidence sequence reaches on both sides: where the evidence is 1 / alpha."""
        weight = self.spread * np.asarray(users, float)
        return np.sqrt((1 + 1 / weight) * (np.log1p(weight) - 2 * np.log(alpha)))


@dataclass(frozen=True)
class Monitor:
    """What is known after all looks so far. Its numbers may be arrays, of several metrics or runs."""

    mixture: Mixture
    alpha: float = ALPHA
    p_value: np.ndarray = field(default_factory=lambda: np.array(1.0))  # always valid: it never rises again
    interval: Interval = EVERYTHING  # covers the gain at all times with probability 1 - alpha

    def after(self, seen: Gain, users: np.ndarray) -> "Monitor":
        """What is known after one more look, at an estimate from so many users of both arms."""
        users, ready = np.asarray(users, float), np.isfinite(seen.z) & (seen.error > 0) & (np.asarray(users) >= FIRST)
        counted = np.maximum(users, 1)
        evidence = np.where(ready, self.mixture.log_evidence(np.nan_to_num(seen.z), counted), -np.inf)
        own = seen.within(self.mixture.radius(counted, self.alpha))
        low, high = (np.where(ready, new, old) for new, old in zip(own, self.interval, strict=True))
        return Monitor(
            self.mixture,
            self.alpha,
            np.minimum(self.p_value, np.exp(-np.maximum(evidence, 0))),
            Interval(np.maximum(low, self.interval.low), np.minimum(high, self.interval.high)),
        )

    @property
    def decided(self) -> np.ndarray:
        """Whether there is a gain or a loss, whichever the interval says."""
        return self.p_value <= self.alpha
