"""Whether a canary goes on: with users who do less, more, or the same, who get no answers, or whose pages fail or are slow."""

import numpy as np
import pytest

from rayrec.serving.assignment import BUNDLE
from rayrec.serving.rollout.arms import CANARY, STABLE
from rayrec.serving.rollout.decision import GUARD_ALPHA, Decision, decided, is_worse, trial, users_that_prove
from rayrec.serving.rollout.experiment_status import status_of
from rayrec.serving.rollout.guardrails import FAILED, SLOW, Guardrails
from rayrec.serving.rollout.tally import Tally
from rayrec.serving.state.store import events_table
from tests.serving.rollout.browsing import NOW, canary_events


def after(
    users: int, rate: float, answered: float = 1.0, enough: int = 10_000, silent: str = "", suffered: Guardrails | None = None
) -> Decision | None:
    """What is decided after so many users, of whom those of the canary click with another rate, and who may get no answer.

    Clients send no events of the kind `silent`.
    """
    tally, events = Tally(BUNDLE, trial(0.2, enough)), canary_events(users, rate, answered)
    tally.take(events_table(event for event in events if event.kind != silent))
    return decided(status_of(tally, NOW), suffered or Guardrails("b"), enough)


def suffering(kind: str, stable: int, canary: int) -> Guardrails:
    found = Guardrails("b")
    for arm, users in ((STABLE, stable), (CANARY, canary)):
        for number in range(users):
            found.note(kind, arm, f"{arm} {number}")
    return found


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


@pytest.mark.parametrize("silent", ["watch", "click"])
def test_what_clients_do_not_send_holds_nothing_up(silent: str) -> None:
    """The metric that they do send decides alone."""
    decision = after(2000, rate=0.3, enough=1500, silent=silent)
    assert decision is not None
    assert decision.goes_on
    assert ("clicks per user" in decision.reason, "watch seconds per user" in decision.reason) == (
        silent != "click",
        silent != "watch",
    )
    worse = after(2000, rate=0.1, silent=silent)
    assert worse is not None
    assert not worse.goes_on
    assert after(2000, rate=0.3, silent=silent) is None  # of fewer users than were wanted


def test_without_any_events_of_what_users_do_nothing_is_decided() -> None:
    tally = Tally(BUNDLE, trial(0.2, 100))
    shown = (event for event in canary_events(2000, 0.3) if event.kind == "impression")
    tally.take(events_table(shown))
    assert decided(status_of(tally, NOW), Guardrails("b"), 100) is None


# --- guardrails ---


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (FAILED, "the canary fails more: pages could not be made for 5 of its users, and for 0 of the others, where it has 20%"),
        (SLOW, "the canary is slower: pages took longer than serving.slow_s for 5 of its users, and for 0 of the others"),
    ],
)
def test_a_canary_that_fails_or_is_slow_is_left_however_much_it_is_clicked(kind: str, reason: str) -> None:
    assert users_that_prove(0.2) == 5
    decision = after(2000, rate=0.6, suffered=suffering(kind, 0, 5))
    assert decision is not None
    assert not decision.goes_on
    assert decision.reason.startswith(reason)
    early = after(10, rate=0.3, suffered=suffering(kind, 0, 5))  # long before clicks could say anything
    assert early is not None
    assert early.reason == decision.reason
    assert after(10, rate=0.3, suffered=suffering(kind, 0, 4)) is None


def test_a_canary_is_not_left_for_what_hits_both_bundles_or_the_stable_one() -> None:
    assert after(500, rate=0.3, suffered=suffering(FAILED, 80, 20)) is None
    assert after(500, rate=0.3, suffered=suffering(FAILED, 100, 0)) is None
    assert not is_worse(100, 0, 0.2)
    assert is_worse(80, 45, 0.2)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_guardrails_are_rarely_wrong_although_each_user_who_suffers_is_looked_at(share: float) -> None:
    runs, users = 500, 60
    drawn = np.random.default_rng(7).random((runs, users)) < share
    wrong = [any(is_worse(n - int(sum_), int(sum_), share) for n, sum_ in enumerate(row.cumsum(), 1)) for row in drawn]
    assert np.mean(wrong) <= GUARD_ALPHA


def test_a_fault_of_the_canary_alone_needs_few_users() -> None:
    assert [users_that_prove(share) for share in (0.01, 0.1, 0.5)] == [3, 4, 10]
    # Where the canary makes three times as many users suffer, the limit is found with certainty after some hundreds of them.
    drawn = np.random.default_rng(8).random(300) < 0.3 / (0.3 + 0.9)
    assert is_worse(300 - int(drawn.sum()), int(drawn.sum()), 0.1)
