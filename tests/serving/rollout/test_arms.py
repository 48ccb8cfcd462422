"""Which users get which bundle, and what the reports of all replicas mean together."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError

from rayrec.serving.recommender import Recommender
from rayrec.serving.rollout.arms import CANARY, STABLE, Arms, Canary, Report, Rollout, verdict

USERS = [f"u{n}" for n in range(4000)]
OLD, NEW = Rollout(version="a"), Rollout(version="a", canary=Canary(version="b", share=0.1))


def recommender(version: str) -> Recommender:
    return cast(Recommender, SimpleNamespace(bundle=SimpleNamespace(version=version)))


def canaries(version: str, share: float) -> set[str]:
    """The users who get the canary."""
    arms = Arms(recommender("a"), recommender(version), share)
    return {user for user in USERS if arms.arm_of(user)[0] == CANARY}


def report(rollout: Rollout, **fields: Any) -> Report:
    plain: dict[str, Any] = {"replica": "r", "node": "n", "switching": False, "refused": "", "bundles": {STABLE: "a"}, "share": 0.0}
    return Report(**plain | {"rollout": rollout, "queue_age_s": 0.1, "impressions": 0, "clicks": 0, "refusals": 0} | fields)


def test_without_a_canary_everybody_gets_the_stable_bundle() -> None:
    arms = Arms(recommender("a"))
    assert {arms.arm_of(user)[0] for user in USERS} == {STABLE}
    assert list(arms.named()) == [STABLE]


def test_the_canary_gets_its_share_always_the_same_users_and_more_when_it_grows() -> None:
    few, many = canaries("b", 0.1), canaries("b", 0.3)
    assert 0.08 < len(few) / len(USERS) < 0.12
    assert few < many == canaries("b", 0.3)
    arms = Arms(recommender("a"), recommender("b"), 0.1)
    assert {arms.arm_of(user)[1].bundle.version for user in few} == {"b"}


def test_another_canary_has_other_users() -> None:
    both = canaries("b", 0.1) & canaries("c", 0.1)
    assert 0.005 < len(both) / len(USERS) < 0.015


@pytest.mark.parametrize("config", [{"verison": "a"}, {"canary": {"version": "b", "share": 1.5}}, {"canary": {"version": "b"}}])
def test_a_wrong_user_config_is_no_rollout(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Rollout.model_validate(config)


def test_a_rollout_survives_the_way_through_serve() -> None:
    assert Rollout.model_validate(NEW.model_dump()) == NEW
    assert Rollout.model_validate({}) == Rollout()


def test_a_swap_is_done_when_every_replica_says_so() -> None:
    assert verdict([], NEW) is None
    assert verdict([report(NEW), report(OLD)], NEW) is None
    assert verdict([report(NEW), report(NEW, switching=True)], NEW) is None
    assert verdict([report(NEW), report(NEW)], NEW) == ""
    assert verdict([report(OLD), report(NEW, refused="broken")], NEW) == "broken"
    assert verdict([report(OLD, refused="an older rollout")], NEW) is None
