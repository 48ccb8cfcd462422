"""Whether a canary is to go on: by what its users do, compared with those of the stable bundle, as in an experiment.

The test may be looked at any time, so that a bad bundle is left as soon as the events prove it. Requests that fail show as users
who are missing: an arm that answers fewer users than its share has lost the others.
"""

from dataclasses import dataclass

from rayrec.config import Experiment
from rayrec.serving.rollout.arms import CANARY, STABLE
from rayrec.serving.rollout.experiment_status import Compared, ExperimentStatus

WATCHED = ("clicks per user", "watch seconds per user")


@dataclass(frozen=True)
class Decision:
    """What becomes of the canary, and why, as a sentence."""

    goes_on: bool
    reason: str


def trial(share: float, users: int) -> Experiment:
    """The experiment that a canary is, decided after so many users of both bundles at the latest."""
    return Experiment.model_validate({"arms": {STABLE: 1 - share, CANARY: share}, "users": users})


def decided(status: ExperimentStatus, users: int) -> Decision | None:
    """What is proven about a `trial`; None while more users are needed."""
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


def _said(found: Compared) -> str:
    return f"{found.metric} {found.gain:+.1%} (between {found.low:+.1%} and {found.high:+.1%})"
