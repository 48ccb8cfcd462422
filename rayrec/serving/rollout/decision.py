"""Whether a canary is to go on: by what its users do, compared with those of the stable bundle, and by whom it failed.

All tests may be looked at any time, so that a bad bundle is left as soon as its users prove it. What users do is compared as in an
experiment. An arm that answers fewer users than its share has lost the others.

The guardrails ask of all users who suffered something, a page that failed or was slow, what share of them has the canary. If it is
no worse than the stable bundle, that is its share of all users, whatever made them suffer. This needs neither the number of
requests nor a normal approximation, and holds from the first user on.
"""

import math
from dataclasses import dataclass
from itertools import count

import numpy as np

from rayrec.config import Experiment
from rayrec.evaluation.experiments.mismatch import mismatch_log_evidence
from rayrec.serving.rollout.arms import CANARY, STABLE
from rayrec.serving.rollout.experiment_status import Compared, ExperimentStatus
from rayrec.serving.rollout.guardrails import FAILED, SLOW, Guardrails

WATCHED = ("clicks per user", "watch seconds per user")
GUARDED = {FAILED: "fails more: pages could not be made", SLOW: "is slower: pages took longer than serving.slow_s"}
GUARD_ALPHA = 0.01  # how often a canary that is no worse may be rolled back by each guardrail
GUARD_STRENGTH = 1.0  # of the shares that the evidence averages over: any are likely, since a fault may hit one arm alone


@dataclass(frozen=True)
class Decision:
    """What becomes of the canary, and why, as a sentence."""

    goes_on: bool
    reason: str


def trial(share: float, users: int) -> Experiment:
    """The experiment that a canary is, decided after so many users of both bundles at the latest."""
    return Experiment.model_validate({"arms": {STABLE: 1 - share, CANARY: share}, "users": users})


def decided(status: ExperimentStatus, guardrails: Guardrails, users: int) -> Decision | None:
    """What is proven about a `trial`; None while more users are needed."""
    shares = {arm.arm: arm.share for arm in status.arms}
    for kind, said in GUARDED.items():
        stable, canary = (guardrails.count(kind, arm) for arm in (STABLE, CANARY))
        if is_worse(stable, canary, shares[CANARY]):
            suffered = f"for {canary:,} of its users, and for {stable:,} of the others"
            return Decision(False, f"the canary {said} {suffered}, where it has {shares[CANARY]:.0%} of all users")
    if status.mismatch:
        counts = " and ".join(f"{arm.users:,} of {arm.arm}" for arm in status.arms)
        return Decision(
            False, f"the bundles do not have their shares of the users, {counts}: some users of one of them get no answers"
        )
    watched = [each for each in status.arms[1].metrics if each.metric in WATCHED and each.low is not None and each.high is not None]
    for each in watched:
        if each.high is not None and each.high < 0:
            return Decision(False, f"the canary is worse: {_said(each)}")
    for each in watched:
        if each.low is not None and each.low > 0:
            return Decision(True, f"the canary is better: {_said(each)}")
    seen = sum(arm.users for arm in status.arms)
    sums = (sum(arm.clicks for arm in status.arms), sum(arm.watch_s for arm in status.arms))
    silent = sum(not total for total in sums)  # metrics of which clients send no events
    if seen >= users and watched and len(watched) + silent == len(WATCHED):
        return Decision(True, f"the canary is not worse after {seen:,} users: {'; '.join(map(_said, watched))}")
    return None


def is_worse(stable: int, canary: int, share: float) -> bool:
    """Whether users of both arms who suffered something prove that they have the canary more often than its share of all users."""
    if canary <= share * (stable + canary):
        return False
    evidence = mismatch_log_evidence(np.array([stable, canary]), np.array([1 - share, share]), GUARD_STRENGTH)
    return evidence >= -math.log(GUARD_ALPHA)


def users_that_prove(share: float) -> int:
    """How many users of a canary prove it worse if they alone suffer."""
    return next(users for users in count(1) if is_worse(0, users, share))


def _said(found: Compared) -> str:
    return f"{found.metric} {found.gain:+.1%} (between {found.low:+.1%} and {found.high:+.1%})"
