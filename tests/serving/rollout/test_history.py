"""The history of swaps, and what a rollback returns to."""

from pathlib import Path

import pytest

from rayrec.serving.rollout.arms import Canary, Rollout
from rayrec.serving.rollout.history import DONE, HISTORY, Swap, SwapError, previous_rollout, record, swap_history
from rayrec.workspace.versions import Workspace

ALL = {"a", "b", "c"}


def history(*versions: str) -> list[Swap]:
    return [Swap(at, version, None, 0.0, DONE) for at, version in enumerate(versions)]


@pytest.mark.parametrize(
    ("path", "back"),
    [
        (("a", "b"), "a"),
        (("a", "b", "c"), "b"),
        (("a", "b", "c", "b"), "a"),  # after one rollback
        (("a", "b", "c", "b", "c"), "b"),  # and after c was tried again
        (("b", "a", "b"), None),
        (("a",), None),
    ],
)
def test_a_rollback_goes_to_what_was_served_before(path: tuple[str, ...], back: str | None) -> None:
    current = Rollout(version=path[-1])
    if back is None:
        with pytest.raises(SwapError, match="nothing to roll back to"):
            previous_rollout(history(*path), current, ALL)
    else:
        assert previous_rollout(history(*path), current, ALL) == Rollout(version=back)


def test_a_rollback_passes_by_what_was_refused_and_what_is_gone() -> None:
    refused = Swap(9, "c", None, 0.0, "c is broken")
    assert previous_rollout([*history("a", "b"), refused], Rollout(version="b"), ALL) == Rollout(version="a")
    assert previous_rollout(history("a", "c", "b"), Rollout(version="b"), {"a", "b"}) == Rollout(version="a")
    with pytest.raises(SwapError, match="before b is still published"):
        previous_rollout(history("a", "b"), Rollout(version="b"), {"b"})


def test_a_rollback_ends_a_canary_first() -> None:
    current = Rollout(version="b", canary=Canary(version="c", share=0.1))
    assert previous_rollout(history("a", "b"), current, ALL) == Rollout(version="b")


def test_the_history_is_kept_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    assert swap_history(workspace) == []
    for swap in history("a", "b", "c"):
        record(workspace, swap)
    assert swap_history(workspace) == history("a", "b", "c")
    monkeypatch.setattr("rayrec.serving.rollout.history.MAX_SWAPS", 2)
    record(workspace, Swap(3, "c", "a", 0.1, DONE))
    assert [(swap.version, swap.canary) for swap in swap_history(workspace)] == [("c", None), ("c", "a")]


@pytest.mark.parametrize("content", [b"{", b'{"at": 1}', b'[{"at": 1, "bundle": "a"}]'])
def test_a_history_that_can_not_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_file(HISTORY, content)
    with pytest.raises(SwapError, match=r"serving/swaps\.json is not a history of swaps .* delete it"):
        swap_history(workspace)


def test_a_history_of_version_0_1_is_read(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    row = b'{"at": 1763700000000, "version": "a", "canary": "b", "share": 0.1, "outcome": "done"}'
    workspace.write_file(HISTORY, b"[" + row + b"]")
    assert swap_history(workspace) == [Swap(1763700000000, "a", "b", 0.1, DONE)]
