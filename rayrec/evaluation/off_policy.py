"""What another ranker would have earned, from a log of what was shown with known odds.

Each row is a video that was shown: what it earned, the probability with which it was shown in its place (`propensity`), and the
one with which the other ranker shows it there. Nothing else of the other ranker is needed, and it has served nobody.

- `ips` weighs what was earned by the ratio of both probabilities (Horvitz and Thompson, 1952). It has no bias, and much noise.
- `snips` divides by the mean of the weights: a little bias, less noise (Swaminathan and Joachims, "The Self-Normalized Estimator
  for Counterfactual Learning", NIPS 2015).
- `doubly_robust` adds weighted errors of a model of what is earned to what this model expects. It is right if the odds or the
  model are (Dudík et al., "Doubly Robust Policy Evaluation and Learning", ICML 2011).

All of them are blind to videos that the log's ranker never shows: its propensities must be positive wherever the other one's are.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """The mean of what is earned by a video shown, its standard error, and how many equally weighted rows tell as much."""

    value: float
    error: float
    effective_rows: float  # Kish, 1965


@dataclass(frozen=True)
class ShownLog:
    """What was shown. Raises `ValueError` for odds that can't be true."""

    rewards: np.ndarray  # [N], such as clicks or seconds
    propensities: np.ndarray  # [N], in (0, 1]
    targets: np.ndarray  # [N], in [0, 1], the other ranker's probabilities of the same videos in the same places
    users: np.ndarray | None = None  # [N], any integers: rows of a user depend on one another. None: each row is on its own
    max_weight: float = np.inf  # larger weights become this one, which gives less noise for some bias

    def __post_init__(self) -> None:
        rows = {name: len(getattr(self, name)) for name in ("rewards", "propensities", "targets")}
        if len(set(rows.values())) > 1 or not len(self.rewards):
            raise ValueError(f"a log needs as many rewards, propensities and targets, and at least one of each: {rows}")
        for name, fine in (("propensities", self.propensities > 0), ("targets", self.targets >= 0)):
            fine = fine & (getattr(self, name) <= 1)
            if not fine.all():
                row = int(np.argmin(fine))
                raise ValueError(f"row {row} of the log has {getattr(self, name)[row]} in {name}, which is no possible probability")

    @property
    def weights(self) -> np.ndarray:
        return np.minimum(self.targets / self.propensities, self.max_weight)


def on_policy(log: ShownLog) -> Estimate:
    """What the ranker of the log itself has earned."""
    return _mean(log, log.rewards.astype(float), np.ones(len(log.rewards)))


def ips(log: ShownLog) -> Estimate:
    """Inverse propensity scoring."""
    return _mean(log, log.weights * log.rewards, log.weights)


def snips(log: ShownLog) -> Estimate:
    """Self-normalised inverse propensity scoring. Raises `ValueError` if the other ranker shows nothing of the log."""
    weights = log.weights
    if not weights.any():
        raise ValueError("the other ranker shows no video of the log, so the log says nothing about it")
    value = float((weights * log.rewards).sum() / weights.sum())
    around = _mean(log, weights * (log.rewards - value) / weights.mean(), weights)  # the delta method, around a mean of zero
    return Estimate(value, around.error, around.effective_rows)


def doubly_robust(log: ShownLog, expected: np.ndarray, expected_of_target: np.ndarray) -> Estimate:
    """The model expects `expected` [N] of what was shown, and `expected_of_target` [N] of what the other ranker shows there."""
    return _mean(log, expected_of_target + log.weights * (log.rewards - expected), log.weights)


def _mean(log: ShownLog, terms: np.ndarray, weights: np.ndarray) -> Estimate:
    """Of terms [N]; the error is that of sums over users."""
    value, count = float(terms.mean()), len(terms)
    groups = np.arange(count) if log.users is None else np.unique(log.users, return_inverse=True)[1]
    sums = np.bincount(groups, terms - value)
    many = len(sums)
    error = float(np.sqrt((sums**2).sum() * many / max(many - 1, 1)) / count)
    return Estimate(value, error, float(weights.sum() ** 2 / max((weights**2).sum(), 1e-300)))
