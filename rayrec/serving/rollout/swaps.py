"""Moving the running service from one bundle to another, a share of its users first if wanted, and back again.

`<workspace>/serving/swaps.json` is the history, the oldest first. A swap that ends with one bundle for everybody makes it the
workspace's current one as well, so that a service that is stopped and started again serves the same.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from rayrec.config import Config
from rayrec.errors import RayrecError
from rayrec.serving.bundle import Bundle, BundleError, locate
from rayrec.serving.cluster import service
from rayrec.serving.recommender import now_ms
from rayrec.serving.rollout.arms import Canary, Rollout
from rayrec.workspace.versions import Workspace

HISTORY = "serving/swaps.json"
MAX_SWAPS = 100  # kept in the history
DONE = "done"
WATCH_EVERY_S = 5.0


class SwapError(RayrecError):
    """There is nothing to swap or to roll back to; the message says why."""


@dataclass(frozen=True)
class Swap:
    at: int  # UTC ms
    version: str  # for everybody, or for those whom the canary leaves
    canary: str | None
    share: float  # of the users who get the canary
    outcome: str  # DONE, or why it was refused

    @classmethod
    def to(cls, rollout: Rollout, outcome: str) -> "Swap":
        canary = rollout.canary
        return cls(now_ms(), rollout.version or "", canary.version if canary else None, canary.share if canary else 0.0, outcome)


def swap_history(workspace: Workspace) -> list[Swap]:
    """The history, the oldest first."""
    try:
        return [Swap(**row) for row in json.loads(workspace.read_file(f"{workspace.root}/{HISTORY}"))]
    except FileNotFoundError:
        return []


def record(workspace: Workspace, swap: Swap) -> None:
    rows = [asdict(each) for each in [*swap_history(workspace), swap][-MAX_SWAPS:]]
    workspace.write_file(HISTORY, json.dumps(rows, indent=1).encode())


def former(history: list[Swap], standing: Rollout, published: set[str]) -> Rollout:
    """What to roll back to: the stable bundle alone while there is a canary, else the bundle that was stable before it.

    Bundles that were rolled back from don't count, nor those that are no longer in `published`.
    """
    if standing.canary is not None:
        return Rollout(version=standing.version)
    road: list[str] = []  # of stable bundles; going back to one shortens it
    for version in [*(each.version for each in history if each.outcome == DONE), standing.version or ""]:
        road = [*(road[: road.index(version)] if version in road else road), version]
    earlier = [version for version in road[:-1] if version in published]
    if not earlier:
        raise SwapError(f"there is nothing to roll back to: no bundle that was served before {standing.version} is still published")
    return Rollout(version=earlier[-1])


def swap(config: Config, version: str | None = None, share: float | None = None) -> Swap | None:
    """Move the running service to a bundle (the workspace's current one when no version is given), or only a share of its users.

    Returns once every replica serves it; None when that is so already. Raises `BundleError` when the bundle is broken and
    `SwapRefusedError` when a replica can't serve it: all then go on with what they have. Raises `ClusterError` when nothing runs.
    """
    if share is not None and not 0 < share < 1:
        raise SwapError(f"--canary takes a share of the users between 0 and 1, such as 0.1, not {share:g}")
    workspace = Workspace(config.workspace)
    version, folder = locate(workspace, version)
    standing = _standing(config, workspace)
    if share is None:
        rollout = Rollout(version=version)
    elif version == standing.version:
        raise SwapError(f"bundle {version} is the one that everybody gets already; a canary is another one (--bundle)")
    else:
        rollout = Rollout(version=standing.version, canary=Canary(version=version, share=share))
    if rollout == standing:
        return None
    try:
        Bundle.load(workspace.fs, folder, version)
    except BundleError as problem:
        record(workspace, Swap.to(rollout, str(problem)))
        raise
    return _move(config, workspace, standing, rollout)


def rollback(config: Config) -> Swap:
    """End the canary, or without one move to the bundle that was served before. Raises as `swap` does."""
    workspace = Workspace(config.workspace)
    standing = _standing(config, workspace)
    published = {manifest.version for manifest in workspace.versions("publish")}
    return _move(config, workspace, standing, former(swap_history(workspace), standing, published))


def watch(config: Config, share: float | None, tell: Callable[[str], None]) -> None:
    """Swap to every bundle that is published and has not been tried, for ever; `tell` gets a sentence for each."""
    workspace = Workspace(config.workspace)
    while True:
        version, _ = locate(workspace, None)
        if version not in {name for each in swap_history(workspace) for name in (each.version, each.canary)}:
            try:
                done = swap(config, version, share)
                tell(f"bundle {version} is served" + (f" to {done.share:.0%} of the users" if done and done.canary else ""))
            except RayrecError as problem:
                tell(str(problem))
        time.sleep(WATCH_EVERY_S)


def _standing(config: Config, workspace: Workspace) -> Rollout:
    """What is served now; it goes into the history when it came there without a swap."""
    standing = service.standing(config)
    if standing.version not in {each.version for each in swap_history(workspace) if each.outcome == DONE}:
        record(workspace, Swap.to(standing, DONE))
    return standing


def _move(config: Config, workspace: Workspace, standing: Rollout, rollout: Rollout) -> Swap:
    workspace.pin("publish", standing.versions() | rollout.versions())  # a replica may start anew at any time
    try:
        service.move(config, rollout)
    except service.SwapRefusedError as problem:
        record(workspace, Swap.to(rollout, str(problem)))
        raise
    done = Swap.to(rollout, DONE)
    record(workspace, done)
    if rollout.canary is None and rollout.version is not None:
        workspace.switch("publish", rollout.version)
    return done
