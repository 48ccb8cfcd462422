"""Swaps and rollbacks with a service that is only played, and what is refused before any replica hears of it. Without Ray."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rayrec.config import Config, with_values
from rayrec.serving.bundle import BundleError, locate
from rayrec.serving.cluster import service as service_module
from rayrec.serving.cluster import swaps
from rayrec.serving.cluster.service import ClusterError, SwapRefusedError, with_rollout
from rayrec.serving.rollout.arms import CANARY, Canary, Report, Rollout
from rayrec.serving.rollout.decision import Decision, users_that_prove
from rayrec.serving.rollout.guardrails import FAILED, SLOW, Guardrails
from rayrec.serving.rollout.history import HISTORY, SwapError, swap_history
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.serving.rollout.browsing import canary_events
from tests.serving.small_world import build_workspace


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return build_workspace(tmp_path_factory.mktemp("swapped"))


Service = list[Rollout]  # what it was asked to serve, one after the other


@pytest.fixture
def service(small_world: Config, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service that carries out every rollout, and serves the current bundle now."""
    workspace = Workspace(small_world.workspace)
    rollouts = [Rollout(version=locate(workspace, None)[0])]
    monkeypatch.setattr("rayrec.serving.cluster.service.current_rollout", lambda config: rollouts[-1])
    monkeypatch.setattr("rayrec.serving.cluster.service.apply_rollout", lambda config, rollout: rollouts.append(rollout))
    monkeypatch.setattr("rayrec.serving.cluster.service.reports", lambda config: [])
    workspace.write_file(HISTORY, b"[]")
    workspace.pin("publish", rollouts[0].versions())
    return rollouts


@pytest.fixture
def publish(small_world: Config) -> Callable[[], str]:
    return lambda: run_stage(Workspace(small_world.workspace), load_stage("publish"), small_world, force=True)[0].version


def test_a_bundle_is_tried_kept_and_left_again(service: Service, small_world: Config, publish: Callable[[], str]) -> None:
    first, second = service[-1].version, publish()
    assert swaps.swap(small_world, share=0.1) is not None
    assert service[-1] == Rollout(version=first, canary=Canary(version=second, share=0.1))
    assert swaps.swap(small_world) is not None
    assert service[-1] == Rollout(version=second)
    assert swaps.swap(small_world) is None
    with pytest.raises(SwapError, match="name another bundle as the canary"):
        swaps.swap(small_world, share=0.1)
    swaps.rollback(small_world)
    assert service[-1] == Rollout(version=first)
    workspace = Workspace(small_world.workspace)
    assert locate(workspace, None)[0] == first  # what a service serves that is started anew
    assert [(swap.version, swap.canary) for swap in swap_history(workspace)] == [
        (first, None),
        (first, second),
        (second, None),
        (first, None),
    ]


def test_after_a_rollback_a_swap_moves_to_the_newest_bundle_again(
    service: Service, small_world: Config, publish: Callable[[], str]
) -> None:
    first, second = service[-1].version, publish()
    swaps.swap(small_world)
    swaps.rollback(small_world)
    assert service[-1].version == locate(Workspace(small_world.workspace), None)[0] == first
    assert swaps.swap(small_world) is not None
    assert service[-1].version == second
    assert swaps.swap(small_world) is None
    swaps.rollback(small_world)


def test_a_broken_bundle_reaches_no_replica(service: Service, small_world: Config, publish: Callable[[], str]) -> None:
    workspace = Workspace(small_world.workspace)
    version = publish()
    (Path(locate(workspace, None)[1]) / "items.arrow").write_bytes(b"broken")
    with pytest.raises(BundleError, match=r"items\.arrow is not the file that was published"):
        swaps.swap(small_world)
    with pytest.raises(BundleError, match="holds no bundle 'nonsense'"):
        swaps.swap(small_world, "nonsense")
    assert len(service) == 1
    last = swap_history(workspace)[-1]
    assert last.version == version
    assert "items.arrow" in last.outcome
    workspace.switch("publish", str(service[0].version))


def test_what_a_replica_refuses_is_no_success(
    service: Service, small_world: Config, publish: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(config: Config, rollout: Rollout) -> None:
        raise SwapRefusedError("its ranker knows 3 items")

    monkeypatch.setattr("rayrec.serving.cluster.service.apply_rollout", refuse)
    before = service[0].version
    publish()
    with pytest.raises(SwapRefusedError):
        swaps.swap(small_world)
    workspace = Workspace(small_world.workspace)
    assert swap_history(workspace)[-1].outcome == "its ranker knows 3 items"
    workspace.switch("publish", str(before))


def test_what_is_served_outlives_what_is_published_after_it(
    service: Service, small_world: Config, publish: Callable[[], str]
) -> None:
    workspace = Workspace(small_world.workspace)
    served = str(service[0].version)
    swaps.swap(small_world, publish(), share=0.5)
    newest = [publish() for _ in range(4)][-1]
    published = {manifest.version for manifest in workspace.versions("publish")}
    assert service[-1].versions() | {served, newest} <= published
    assert len(published) < 6
    workspace.switch("publish", served)


def test_watching_tries_each_published_bundle_once(
    service: Service, small_world: Config, publish: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    published = [publish()]
    said: list[str] = []

    def sleep(seconds: float) -> None:
        if len(said) == 1 and len(published) == 1:
            published.append(publish())
            (Path(locate(Workspace(small_world.workspace), None)[1]) / "items.arrow").write_bytes(b"broken")
        elif len(said) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(swaps.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        swaps.watch(small_world, None, said.append)
    assert said[0] == f"bundle {published[0]} is served"
    assert "items.arrow is not the file that was published" in said[1]
    assert [rollout.version for rollout in service[1:]] == published[:1]


# --- a canary that decides ---


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_a_canary_is_left_or_kept_by_what_its_users_do(
    service: Service, small_world: Config, publish: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rate: float
) -> None:
    """Its users come while the command waits. What they did before does not count."""
    first, second = service[-1].version, publish()
    config = with_values(small_world, {"serving.state": str(tmp_path / "events.db")})
    store, said, waited = SqliteStore(tmp_path / "events.db"), list[str](), list[float]()
    store.add_events(canary_events(400, 0.7 - rate, seed=1))

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        store.add_events(canary_events(400, rate, seed=1 + len(waited)))

    monkeypatch.setattr(swaps.time, "sleep", sleep)
    swaps.swap(config, share=0.2)
    done = swaps.decide(config, 10_000, said.append)
    store.close()
    assert said[0].startswith("the canary is worse: " if rate < 0.3 else "the canary is better: ")
    assert (done.version, done.canary) == (first if rate < 0.3 else second, None)
    assert service[-1] == Rollout(version=done.version)
    assert 0 < len(waited) < 10


def test_there_must_be_a_canary_to_decide_on_and_nobody_may_take_it_away(
    service: Service, small_world: Config, publish: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = with_values(small_world, {"serving.state": str(tmp_path / "events.db")})
    with pytest.raises(SwapError, match="there is no canary to decide on"):
        swaps.decide(config, 100, print)
    publish()
    swaps.swap(config, share=0.2)
    monkeypatch.setattr(swaps.time, "sleep", lambda seconds: swaps.rollback(config))
    with pytest.raises(SwapError, match="ended or changed by another swap"):
        swaps.decide(config, 100, print)


@pytest.mark.parametrize(("kind", "words"), [(FAILED, "the canary fails more: "), (SLOW, "the canary is slower: ")])
def test_a_canary_that_fails_its_users_on_several_replicas_is_left(
    service: Service,
    small_world: Config,
    publish: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    words: str,
) -> None:
    """Two replicas each noted too few users to prove it. One of them dies, and what it noted is remembered."""
    first, second = service[-1].version, publish()
    config = with_values(small_world, {"serving.state": str(tmp_path / "events.db")})
    noted = [Guardrails(second), Guardrails(second), Guardrails("another canary")]
    needed, said, looks = users_that_prove(0.2), list[str](), list[int]()
    for number in range(needed):
        noted[number % 2].note(kind, CANARY, f"u{number}")
        noted[2].note(kind, CANARY, f"u{number}")

    def reports(config: Config) -> list[Report]:
        looks.append(len(looks))
        if looks[-1] == 1:
            raise ClusterError("the replicas of TopicRecall do not answer")
        alive = [noted[0], noted[2]] if looks[-1] == 0 else [noted[1], noted[2]]
        return [Report("r", "n", service[-1], False, "", {}, 0.2, 0.0, 0, 0, 0, each) for each in alive]

    monkeypatch.setattr("rayrec.serving.cluster.service.reports", reports)
    monkeypatch.setattr(swaps.time, "sleep", lambda seconds: None)
    swaps.swap(config, share=0.2)
    done = swaps.decide(config, 10_000, said.append)
    assert said[0].startswith(f"{words}pages ")
    assert f"for {needed} of its users, and for 0 of the others, where it has 20% of all users" in said[0]
    assert (done.version, done.canary, service[-1]) == (first, None, Rollout(version=first))
    assert looks == [0, 1, 2]


def test_a_canary_is_decided_only_as_it_was_seen(
    service: Service, small_world: Config, publish: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another operator ends it while the decision waits for its turn: then nothing is swapped or rolled back any more."""
    first, second = service[-1].version, publish()
    config = with_values(small_world, {"serving.state": str(tmp_path / "events.db")})
    for goes_on in (True, False):
        swaps.swap(config, second, share=0.2)
        seen = service[-1]

        def decided(*arguments: object, goes_on: bool = goes_on) -> Decision:
            swaps.swap(config, second, share=0.5)  # comes first
            return Decision(goes_on, "proven")

        monkeypatch.setattr("rayrec.serving.rollout.decision.decided", decided)
        before = len(swap_history(Workspace(config.workspace)))
        with pytest.raises(SwapError, match="ended or changed by another swap"):
            swaps.decide(config, 100, lambda reason: None)
        assert service[-1] == Rollout(version=first, canary=Canary(version=second, share=0.5))
        assert len(swap_history(Workspace(config.workspace))) == before + 1
        with pytest.raises(SwapError, match="ended or changed by another swap"):
            swaps.rollback(config, seen)
        with pytest.raises(SwapError, match="ended or changed by another swap"):
            swaps.swap(config, second, expected=seen)
        swaps.rollback(config, service[-1])
        assert service[-1] == Rollout(version=first)


def test_what_is_expected_is_compared_when_the_turn_has_come(
    service: Service, small_world: Config, publish: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the lock has seen what the one who holds it is about to change."""
    second, third = publish(), publish()
    swaps.swap(small_world, second, share=0.2)
    seen, applying, go_on = service[-1], threading.Event(), threading.Event()

    def apply(config: Config, rollout: Rollout) -> None:
        applying.set()
        assert go_on.wait(10)
        service.append(rollout)

    monkeypatch.setattr("rayrec.serving.cluster.service.apply_rollout", apply)
    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(swaps.swap, small_world, third)
        assert applying.wait(10)
        ours = threads.submit(swaps.swap, small_world, second, None, seen)
        time.sleep(0.3)
        assert not ours.done()
        go_on.set()
        assert isinstance(ours.exception(), SwapError)
        assert other.exception() is None
    assert service[-1] == Rollout(version=third)


# --- two operators ---


def test_swaps_at_once_take_place_one_after_the_other(
    service: Service, small_world: Config, publish: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, others = str(service[0].version), [publish(), publish()]
    at_work, most = [0], [0]

    def apply(config: Config, rollout: Rollout) -> None:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        time.sleep(0.2)
        at_work[0] -= 1
        if rollout.version == others[0]:
            raise SwapRefusedError("its ranker knows 3 items")
        service.append(rollout)

    monkeypatch.setattr("rayrec.serving.cluster.service.apply_rollout", apply)
    with ThreadPoolExecutor(3) as threads:
        done = [threads.submit(swaps.swap, small_world, version) for version in (*others, others[1])]
    problems = [each.exception() for each in done]
    assert [type(problem) for problem in problems] == [SwapRefusedError, type(None), type(None)]
    assert most == [1]
    assert [rollout.version for rollout in service] == [first, others[1]]
    assert sorted(result is None for result in (done[1].result(), done[2].result())) == [
        False,
        True,
    ]  # who came later had nothing to do
    workspace = Workspace(small_world.workspace)
    assert {swap.version for swap in swap_history(workspace)} == {first, *others}
    workspace.switch("publish", first)


class Serve:
    """Plays Ray Serve's REST API: one application, whose config anybody may replace."""

    def __init__(self, rollout: Rollout) -> None:
        self.config = with_rollout({"applications": [{"name": "rayrec"}, {"name": "other"}]}, rollout)

    def get_serve_details(self) -> dict[str, Any]:
        return {"applications": {each["name"]: {"deployed_app_config": each} for each in self.config["applications"]}}

    def deploy_applications(self, config: dict[str, Any]) -> None:
        self.config = config


A, B, C = (Rollout(version=version) for version in "abc")


def test_a_refused_swap_restores_only_the_bundle(small_world: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others changed in Serve meanwhile, such as another application, stays as they made it."""
    serve = Serve(A)

    def refuse(config: Config) -> list[Report]:
        serve.config["applications"][1]["args"] = {"changed": True}
        return [Report("r", "n", B, False, "broken", {"stable": "a"}, 0.0, 0.0, 0, 0, 1)]

    monkeypatch.setattr(service_module, "_client", lambda config: serve)
    monkeypatch.setattr(service_module, "reports", refuse)
    with pytest.raises(SwapRefusedError, match="the new bundle is refused: broken"):
        service_module.apply_rollout(small_world, B)
    assert service_module.current_rollout(small_world) == A
    assert serve.config["applications"][1] == {"name": "other", "args": {"changed": True}}


def test_a_swap_that_was_overtaken_restores_nothing(small_world: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Serve(A)

    def overtaken(config: Config) -> list[Report]:
        serve.deploy_applications(with_rollout(serve.config, C))  # another operator's
        return [Report("r", "n", C, True, "", {"stable": "a"}, 0.0, 0.0, 0, 0, 0)]

    monkeypatch.setattr(service_module, "_client", lambda config: serve)
    monkeypatch.setattr(service_module, "reports", overtaken)
    with pytest.raises(SwapRefusedError, match="another swap came before this one had ended; the service was asked for c since"):
        service_module.apply_rollout(small_world, B)
    assert service_module.current_rollout(small_world) == C
