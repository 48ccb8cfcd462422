"""Thompson sampling with known odds: which new video is tried at a place of a page, and how likely that was.

What is known of the click rate of a new video is a Beta distribution (Chapelle and Li, "An Empirical Evaluation of Thompson
Sampling", NIPS 2011):

    Beta(1 + clicks, 1 / rate - 1 + exposures without a click)

Before anybody has seen the video, its mean is the click rate of the whole catalog, and it weighs as much as the exposures that
bring one click at this rate. Thompson sampling draws a rate from each of these and tries the video with the highest. Nobody can say
afterwards how likely that was, so that it is done the other way round here: first the probability that each video has the highest
rate is computed, then one video is drawn with these probabilities. The odds of a draw are therefore exact, whatever the numerical
error of the integrals, which only decides how near the draw is to that of the distributions.

Thompson sampling soon gives some videos odds of one in ten thousand. If another ranker prefers one of these, the few times when it
was drawn weigh more than all the rest of the log, so that the log says nothing of that ranker. A share `UNIFORM` of the draws is
therefore among all videos alike, and none has odds below UNIFORM / ARMS.
"""

from dataclasses import dataclass

import numpy as np

ARMS = 10  # videos that compete for a place; the more there are, the less a log says of another ranker
UNIFORM = 0.2
RATES = (1e-3, 0.5)  # the prior's rate is at least and at most this, so that both of its parameters are 1 or more
# The points of the integrals. Evenly spaced logits, because a Beta density of a logit is smooth and vanishes on both sides.
_LOGITS = np.linspace(-16, 16, 768)
_LOG_RATE, _LOG_REST = -np.logaddexp(0, -_LOGITS), -np.logaddexp(0, _LOGITS)


@dataclass(frozen=True)
class Draw:
    """A place of a page whose video was drawn."""

    position: int  # on the page, from 0
    rows: np.ndarray  # int64 [A], the candidates that it was drawn among
    odds: np.ndarray  # float64 [A], the probability of each
    chosen: int  # an index into both

    @property
    def propensity(self) -> float:
        return float(self.odds[self.chosen])


def odds(exposures: np.ndarray, clicks: np.ndarray, rate: float) -> np.ndarray:
    """The probability with which each of A videos is drawn, from their counts: float64 [A], which adds up to 1.

    `rate` is the click rate of the catalog.
    """
    return np.asarray((1 - UNIFORM) * best_odds(exposures, clicks, rate) + UNIFORM / len(exposures))


def best_odds(exposures: np.ndarray, clicks: np.ndarray, rate: float) -> np.ndarray:
    """The probability that each of A videos has the highest click rate of them: float64 [A], which adds up to 1."""
    prior = min(max(rate, RATES[0]), RATES[1])
    ones = 1.0 + clicks  # the two parameters of each distribution
    others = 1 / prior - 1 + np.maximum(exposures - clicks, 0)  # clicks may come without an impression
    log_mass = ones[:, None] * _LOG_RATE + others[:, None] * _LOG_REST  # the density of the logit, but for a factor
    mass = np.exp(log_mass - log_mass.max(1, keepdims=True))
    mass /= mass.sum(1, keepdims=True)
    log_below = np.log(np.maximum(np.cumsum(mass, 1) - mass / 2, 1e-300))  # the probability of a lower rate
    won = (mass * np.exp(log_below.sum(0) - log_below)).sum(1)  # this rate, and a lower one of each of the others
    return np.asarray(won / won.sum())
