"""What another ranker would be clicked at the places whose videos were drawn with known odds.

The other ranker would show, of the videos that competed for such a place, the one that it scores highest. `estimates` says by
`off_policy.py` how often it would be clicked, from a log in which it chose nothing.

Shapes: R places, A videos that compete at most.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rayrec.evaluation.off_policy import Estimate, ShownLog, doubly_robust, ips, on_policy, snips

AS_DRAWN, UNWEIGHTED, IPS, SNIPS, DOUBLY_ROBUST = "as drawn", "unweighted", "IPS", "SNIPS", "doubly robust"
TRUTH = "truth"


class Place(NamedTuple):
    """A place whose video was drawn."""

    user: int
    clicked: bool
    propensity: float
    chosen: int  # an index into `scores`
    scores: np.ndarray  # [A], by which the other ranker orders the videos that competed
    expected: np.ndarray  # [A], how likely the other ranker thinks a click on each of them
    truth: float = np.nan  # the probability of a click if the other ranker chose here, where a simulation knows it


@dataclass(frozen=True)
class DrawnPlaces:
    """Places whose videos were drawn."""

    users: np.ndarray  # int64 [R]
    clicked: np.ndarray  # bool [R]
    propensities: np.ndarray  # float64 [R]
    chosen: np.ndarray  # int64 [R], the column of the video that was shown
    scores: np.ndarray  # float64 [R, A], those of the other ranker; -inf behind the videos that competed
    expected: np.ndarray  # float64 [R, A], the clicks that the other ranker expects; 0 behind the videos that competed
    truth: np.ndarray  # float64 [R], NaN where it is not known

    @classmethod
    def of(cls, places: Iterable[Place]) -> "DrawnPlaces":
        users, clicked, propensities, chosen, scores, expected, truth = [*zip(*places, strict=True)] or [()] * len(Place._fields)
        scores_RA = np.full((len(users), max(map(len, scores), default=0)), -np.inf)
        expected_RA = np.zeros(scores_RA.shape)
        for row, (each, clicks) in enumerate(zip(scores, expected, strict=True)):
            scores_RA[row, : len(each)], expected_RA[row, : len(each)] = each, clicks
        odds, known, shown = np.array(propensities, float), np.array(truth, float), np.array(chosen, np.int64)
        return cls(np.array(users, np.int64), np.array(clicked, bool), odds, shown, scores_RA, expected_RA, known)

    def __len__(self) -> int:
        return len(self.users)

    @property
    def targets(self) -> np.ndarray:
        """The probability with which the other ranker shows the video that was shown: [R]."""
        return self._of_shown(greedy(self.scores))

    @property
    def matches(self) -> int:
        """At how many places the other ranker might have shown the same video."""
        return int((self.targets > 0).sum())

    def log(self) -> ShownLog:
        return ShownLog(self.clicked.astype(float), self.propensities, self.targets, self.users)

    def _of_shown(self, values_RA: np.ndarray) -> np.ndarray:
        return np.asarray(values_RA[np.arange(len(self)), self.chosen])

    def estimates(self) -> Mapping[str, Estimate]:
        """The clicks of a place by each estimator; only those `AS_DRAWN` if the other ranker would have shown no video that was.

        They are about these places as they were, each by itself: what the other ranker would have changed on the pages before
        is not known. The `TRUTH` is that of a simulation.

        `UNWEIGHTED` is what a log without odds would give: the click rate of the videos that both chose. The model of clicks in the
        doubly robust estimate is the other ranker itself.
        """
        log = self.log()
        found = {AS_DRAWN: on_policy(log)}
        if self.matches:
            expected_of_target = (greedy(self.scores) * self.expected).sum(1)
            found[UNWEIGHTED] = snips(ShownLog(log.rewards, np.ones(len(self)), log.targets, self.users))
            found |= {IPS: ips(log), SNIPS: snips(log)}
            found[DOUBLY_ROBUST] = doubly_robust(log, self._of_shown(self.expected), expected_of_target)
        if len(self) and np.isfinite(self.truth).all():
            found[TRUTH] = Estimate(float(self.truth.mean()), 0.0, len(self))
        return found


def greedy(scores: np.ndarray) -> np.ndarray:
    """The odds of taking the highest score, of equal ones each alike: scores [..., A] -> [..., A]."""
    highest = scores == scores.max(-1, keepdims=True)
    return np.asarray(highest / highest.sum(-1, keepdims=True))
