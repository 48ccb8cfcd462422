"""The relative gain of one arm over another in a ratio of users' totals, such as watch time for each video.

A ratio is the sum of one number over users, divided by the sum of another; a mean over users is a ratio whose second number is 1.
Users, not videos or views, are drawn into arms, so the error is that of a function of users' means: the delta method (Deng et
al., "Applying the Delta Method in Metric Analytics", KDD 2018). The gain is estimated by the difference of the logarithms of both
ratios, whose distribution is nearer to a normal one than the gain's own.

Covariates, which users had before the experiment, may take away a part of the noise (CUPED; Deng et al., "Improving the
Sensitivity of Online Controlled Experiments by Utilizing Pre-Experiment Data", WSDM 2013). What the assignment can't have changed
can't bias.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from rayrec.evaluation.experiments.moments import Moments


class Interval(NamedTuple):
    """Limits of a relative gain: -.01 is 1 % less."""

    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Gain:
    """An estimated gain and its error; NaN where an arm's ratio is not positive yet."""

    log_ratio: np.ndarray  # [...], the logarithm of the treatment's ratio less that of the control's
    error: np.ndarray  # [...], its standard error

    @property
    def relative(self) -> np.ndarray:
        """.01 is 1 % more than the control has."""
        return np.expm1(self.log_ratio)

    @property
    def z(self) -> np.ndarray:
        """The estimate in units of its error; 0 where nothing varies."""
        return np.divide(self.log_ratio, self.error, out=np.zeros_like(self.error), where=self.error != 0)

    def interval(self, level: float = 0.95) -> Interval:
        """That covers the gain with this probability, if it is looked at once, at a time that was fixed before."""
        return self.within(norm.isf((1 - level) / 2))

    def within(self, errors: np.ndarray | float) -> Interval:
        """The gains that are no more than so many standard errors away."""
        reach = errors * self.error
        return Interval(np.expm1(self.log_ratio - reach), np.expm1(self.log_ratio + reach))

    @property
    def p_value(self) -> np.ndarray:
        """Two-sided, of no gain, for a look at a time that was fixed before."""
        return 2 * norm.sf(np.abs(self.z))


def gain(control: Moments, treatment: Moments) -> Gain:
    """The gain of the treatment.

    A user's numbers are the ratio's two parts, neither of them negative, and then any number of covariates from before the
    experiment, whose weights make the error as small as they can.
    """
    arms = (control, treatment)
    slopes = [_slopes(arm) for arm in arms]
    parts = [arm.covariance / np.maximum(arm.count, 1)[..., None, None] for arm in arms]
    # How the covariates move together with the logarithm of the ratio, and with one another, in the difference of both arms.
    joint = sum(np.einsum("...ij,...j->...i", part[..., 2:, :2], slope) for part, slope in zip(parts, slopes, strict=True))
    own = sum(part[..., 2:, 2:] for part in parts)
    weights = np.einsum("...ij,...j->...i", np.linalg.pinv(own, hermitian=True), joint)
    variance = np.zeros(np.shape(joint)[:-1])
    for part, slope in zip(parts, slopes, strict=True):
        factors = np.concatenate([slope, -np.broadcast_to(weights, (*slope.shape[:-1], weights.shape[-1]))], axis=-1)
        variance = variance + np.einsum("...i,...ij,...j->...", factors, part, factors)
    logs = [-np.log(slope[..., 0]) + np.log(-slope[..., 1]) for slope in slopes]
    ahead = np.einsum("...i,...i->...", weights, treatment.mean[..., 2:] - control.mean[..., 2:])
    return Gain(logs[1] - logs[0] - ahead, np.sqrt(np.maximum(variance, 0)))


def _slopes(arm: Moments) -> np.ndarray:
    """How the logarithm of the ratio changes with the means of its two parts: [..., 2]; NaN for a mean that is not positive."""
    means = np.where(arm.mean[..., :2] > 0, arm.mean[..., :2], np.nan)
    return np.array([1, -1]) / means


def bootstrap(control: np.ndarray, treatment: np.ndarray, level: float, draws: int, rng: np.random.Generator) -> Interval:
    """The interval of the gain of ratios, users [N, 2], by drawing users anew (Efron, 1979): what the delta method is held to."""
    logs = []
    for values in (control, treatment):
        weights = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=draws)
        totals = weights @ values[:, :2]
        logs.append(np.log(totals[:, 0]) - np.log(totals[:, 1]))
    low, high = np.quantile(logs[1] - logs[0], [(1 - level) / 2, (1 + level) / 2])
    return Interval(np.expm1(low), np.expm1(high))
