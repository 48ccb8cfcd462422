"""Whether a canary goes on: with users who do less, more, or the same, and with users who get no answers."""

import pytest

from rayrec.serving.assignment import BUNDLE
from rayrec.serving.rollout.decision import Decision, decided, trial
from rayrec.serving.rollout.experiment_status import status_of
from rayrec.serving.rollout.tally import Tally
from rayrec.serving.state.store import events_table
from tests.serving.rollout.browsing import NOW, canary_events


def after(users: int, rate: float, answered: float = 1.0, enough: int = 10_000) -> Decision | None:
    """What is decided after so many users, of whom those of the canary click with another rate, and who may get no answer."""
    tally = Tally(BUNDLE, trial(0.2, enough))
    tally.take(events_table(canary_events(users, rate, answered)))
    return decided(status_of(tally, NOW), enough)


@pytest.mark.parametrize(
    ("decision", "goes_on", "reason"),
    [
        (after(2000, rate=0.15), False, "the canary is worse: clicks per user -"),
        (after(2000, rate=0), False, "the canary is worse: clicks per user -"),
        (after(2000, rate=0.6), True, "the canary is better: clicks per user +"),
        (after(2000, rate=0.3, enough=1500), True, "the canary is not worse after 2,000 users: clicks per user"),
        (after(2000, rate=0.3, answered=0.5), False, "the bundles do not have their shares of the users, "),
    ],
)
def test_what_is_proven_is_decided(decision: Decision | None, goes_on: bool, reason: str) -> None:
    assert decision is not None
    assert decision.goes_on == goes_on
    assert decision.reason.startswith(reason)


def test_while_nothing_is_proven_the_canary_waits() -> None:
    assert after(2000, rate=0.3) is None
    assert after(100, rate=0.0, enough=50) is None  # a handful of users of the canary proves nothing
