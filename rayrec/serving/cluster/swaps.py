"""Moves the running service from one bundle to another, at first for a share of its users if wanted, and back again.

A swap that ends with one bundle for all users also makes it the workspace's current bundle, so that a service that is stopped and
started again serves the same bundle.

Swaps of several operators take place one after the other: each looks at what is served when its turn has come. The lock is a file
of the workspace. A swap that was overtaken, because its process stood still for so long that it was taken for dead, ends with an
error and restores nothing.
"""

import logging
import time
from collections.abc import Callable

from rayrec.config import Config
from rayrec.errors import RayrecError
from rayrec.serving.assignment import BUNDLE
from rayrec.serving.bundle import Bundle, BundleError, locate, verify
from rayrec.serving.cluster import service
from rayrec.serving.cluster.head import ClusterError
from rayrec.serving.recommender import now_ms
from rayrec.serving.rollout.arms import Canary, Rollout
from rayrec.serving.rollout.guardrails import Guardrails
from rayrec.serving.rollout.history import DONE, Swap, SwapError, previous_rollout, record, swap_history
from rayrec.serving.state.opening import open_store
from rayrec.workspace.versions import Workspace

WATCH_INTERVAL_S = 5.0
OVERTAKEN = "the canary was ended or changed by another swap, so there is nothing left to decide"
DECIDE_INTERVAL_S = 5.0

log = logging.getLogger(__name__)


def swap(config: Config, version: str | None = None, share: float | None = None, expected: Rollout | None = None) -> Swap | None:
    """Moves the running service to a bundle (without a version, the one that was published last), or only a share of its users.

    Returns once every replica serves the bundle, or None if all of them did already. Raises `BundleError` if the bundle is broken,
    `SwapRefusedError` if a replica can't serve it (all replicas then keep what they have), and `ClusterError` if no service runs.
    """
    if share is not None and not 0 < share < 1:
        raise SwapError(f"--canary takes a share of the users between 0 and 1, such as 0.1, not {share:g}")
    workspace = Workspace(config.workspace)
    with workspace.locked(service.SWAP_LOCK):
        version, folder = locate(workspace, version or _newest(workspace))
        current = _current_rollout(config, workspace, expected)
        if share is None:
            rollout = Rollout(version=version)
        elif version == current.version:
            raise SwapError(f"all users get bundle {version} already; name another bundle as the canary (--bundle)")
        else:
            rollout = Rollout(version=current.version, canary=Canary(version=version, share=share))
        if rollout == current:
            return None
        try:
            verify(workspace.fs, folder)
            Bundle.load(workspace.fs, folder, version)
        except BundleError as problem:
            record(workspace, Swap.to(rollout, str(problem)))
            raise
        return _apply(config, workspace, current, rollout)


def _newest(workspace: Workspace) -> str | None:
    """The bundle that was published last, which need not be the current one: a rollback may have left it."""
    published = workspace.versions("publish")
    return published[-1].version if published else None


def rollback(config: Config, expected: Rollout | None = None) -> Swap:
    """Ends the canary or, if there is none, moves to the bundle that was served before. Raises the same errors as `swap`."""
    workspace = Workspace(config.workspace)
    with workspace.locked(service.SWAP_LOCK):
        current = _current_rollout(config, workspace, expected)
        published = {manifest.version for manifest in workspace.versions("publish")}
        return _apply(config, workspace, current, previous_rollout(swap_history(workspace), current, published))


def decide(config: Config, users: int, report: Callable[[str], None]) -> Swap:
    """Watches the canary until its users prove something, then moves all users to it or back. `report` is told why.

    Only events of pages from now on count, and whom the bundles failed since the canary began. Raises `SwapError` without a
    canary, or when another swap ends it, and the errors of `swap`.
    """
    from rayrec.serving.rollout.decision import decided, trial  # import SciPy, which other swaps do not need
    from rayrec.serving.rollout.experiment_status import Reader

    current = service.current_rollout(config)
    canary = current.canary
    if canary is None:
        raise SwapError("there is no canary to decide on; name its share of the users (--canary)")
    store, guardrails = open_store(config), Guardrails(canary.version)
    try:
        reader = Reader({BUNDLE: trial(canary.share, users)}, store.latest())
        while True:
            if service.current_rollout(config) != current:
                raise SwapError(OVERTAKEN)
            _join(config, guardrails)
            [status] = reader.statuses(store, now_ms())
            if decision := decided(status, guardrails, users):
                break
            time.sleep(DECIDE_INTERVAL_S)
    finally:
        store.close()
    report(decision.reason)
    done = swap(config, canary.version, expected=current) if decision.goes_on else rollback(config, current)
    assert done is not None  # since not all users had the canary
    return done


def _join(config: Config, guardrails: Guardrails) -> None:
    """Adds what the replicas have noted. One that dies is asked no more, but what it noted before is not lost."""
    try:
        for report in service.reports(config):
            guardrails.add(report.guardrails)
    except ClusterError as problem:  # a replica has just died
        log.warning("whom the canary fails is not known now: %s; asking again", problem)


def watch(config: Config, share: float | None, report: Callable[[str], None]) -> None:
    """Swaps to every bundle that is published and has not been tried, for ever. `report` gets a sentence about each."""
    workspace = Workspace(config.workspace)
    while True:
        version, _ = locate(workspace, None)
        if version not in {name for each in swap_history(workspace) for name in (each.version, each.canary)}:
            try:
                done = swap(config, version, share)
                report(f"bundle {version} is served" + (f" to {done.share:.0%} of the users" if done and done.canary else ""))
            except RayrecError as problem:
                report(str(problem))
        time.sleep(WATCH_INTERVAL_S)


def _current_rollout(config: Config, workspace: Workspace, expected: Rollout | None) -> Rollout:
    """What is served now. If it came about without a swap, the history gets an entry for it.

    Raises `SwapError` if something is `expected`, and another operator has changed that meanwhile.
    """
    current = service.current_rollout(config)
    if expected is not None and current != expected:
        raise SwapError(OVERTAKEN)
    if current.version not in {each.version for each in swap_history(workspace) if each.outcome == DONE}:
        record(workspace, Swap.to(current, DONE))
    return current


def _apply(config: Config, workspace: Workspace, current: Rollout, rollout: Rollout) -> Swap:
    workspace.pin("publish", current.versions() | rollout.versions())  # a replica may restart at any time
    workspace.check_lock(service.SWAP_LOCK)
    try:
        service.apply_rollout(config, rollout)
    except service.SwapRefusedError as problem:
        record(workspace, Swap.to(rollout, str(problem)))
        raise
    done = Swap.to(rollout, DONE)
    record(workspace, done)
    if rollout.canary is None and rollout.version is not None:
        workspace.switch("publish", rollout.version)
    return done
