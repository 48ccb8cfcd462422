"""Whom the bundles failed: counted by users, joined over replicas, and bounded."""

import pytest

from rayrec.serving.rollout import guardrails
from rayrec.serving.rollout.arms import CANARY, STABLE
from rayrec.serving.rollout.guardrails import FAILED, SLOW, Guardrails


def test_a_user_counts_once_on_all_replicas_together() -> None:
    here, there, joined = (Guardrails("b") for _ in range(3))
    for user in ("ann", "ann", "bob"):
        here.note(FAILED, CANARY, user)
    for user in ("bob", "cy"):
        there.note(FAILED, CANARY, user)
    there.note(SLOW, STABLE, "ann")
    for _ in range(2):  # a later look at a replica finds what the one before found, too
        joined.add(here)
        joined.add(there)
    assert [joined.count(kind, arm) for kind in (FAILED, SLOW) for arm in (STABLE, CANARY)] == [0, 3, 1, 0]
    assert here.count(FAILED, CANARY) == 2  # not changed by being joined


def test_another_canary_says_nothing_and_without_one_nothing_is_noted() -> None:
    joined, other, none = Guardrails("b"), Guardrails("a"), Guardrails()
    other.note(FAILED, CANARY, "ann")
    none.note(FAILED, STABLE, "ann")
    joined.add(other)
    joined.add(none)
    assert joined == Guardrails("b")
    assert none == Guardrails()


def test_memory_is_bounded_for_both_arms_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardrails, "MAX_NOTED", 10)
    found = Guardrails("b")
    for number in range(20):
        found.note(SLOW, STABLE if number % 2 else CANARY, f"u{number}")
    assert [found.count(SLOW, arm) for arm in (STABLE, CANARY)] == [5, 5]


def test_users_are_known_by_hashes_that_are_the_same_in_all_processes() -> None:
    found = Guardrails("b")
    found.note(FAILED, CANARY, "ann")
    assert found.users[FAILED] == {CANARY: {0x8D3ADF6ABF23F3A5}}
