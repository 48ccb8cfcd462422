"""The history of swaps, and what a rollback returns to.

`<workspace>/serving/swaps.json` holds the history, the oldest swap first.
"""

import json
from dataclasses import asdict, dataclass
from typing import Self

from rayrec.errors import RayrecError
from rayrec.serving.recommender import now_ms
from rayrec.serving.rollout.arms import Rollout
from rayrec.workspace.versions import Workspace

HISTORY = "serving/swaps.json"
MAX_SWAPS = 100  # kept in the history
DONE = "done"


class SwapError(RayrecError):
    """There is nothing to swap or to roll back to, or the history can't be read; the message says why."""


@dataclass(frozen=True)
class Swap:
    """One entry of the history."""

    at: int  # UTC ms
    version: str  # for all users, or for those who do not get the canary
    canary: str | None
    share: float  # of the users who get the canary
    outcome: str  # DONE, or why the rollout was refused

    @classmethod
    def to(cls, rollout: Rollout, outcome: str) -> Self:
        """A swap to a rollout that ended now."""
        canary = rollout.canary
        return cls(now_ms(), rollout.version or "", canary.version if canary else None, canary.share if canary else 0.0, outcome)


def swap_history(workspace: Workspace) -> list[Swap]:
    """All swaps, the oldest first. Raises `SwapError` if the history can't be read."""
    path = f"{workspace.root}/{HISTORY}"
    try:
        return [Swap(**row) for row in json.loads(workspace.read_file(path))]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise SwapError(f"{path} is not a history of swaps ({error}); delete it to begin a new one") from error


def record(workspace: Workspace, swap: Swap) -> None:
    """Appends a swap to the history."""
    rows = [asdict(each) for each in [*swap_history(workspace), swap][-MAX_SWAPS:]]
    workspace.write_file(HISTORY, json.dumps(rows, indent=1).encode())


def previous_rollout(history: list[Swap], current: Rollout, published: set[str]) -> Rollout:
    """What a rollback returns to: if there is a canary, the stable bundle alone, otherwise the bundle that was stable before it.

    Bundles that a rollback has left are skipped, and so are those that are no longer among the `published` ones. Raises `SwapError`
    if nothing remains.
    """
    if current.canary is not None:
        return Rollout(version=current.version)
    path: list[str] = []  # of stable bundles; returning to one shortens it
    for version in [*(swap.version for swap in history if swap.outcome == DONE), current.version or ""]:
        path = [*(path[: path.index(version)] if version in path else path), version]
    earlier = [version for version in path[:-1] if version in published]
    if not earlier:
        raise SwapError(f"there is nothing to roll back to: no bundle that was served before {current.version} is still published")
    return Rollout(version=earlier[-1])
