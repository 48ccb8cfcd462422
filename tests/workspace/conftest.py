"""Workspaces on both kinds of file systems: this machine's, and one that fsspec opens."""

from pathlib import Path

import pytest

from rayrec.workspace import locks
from rayrec.workspace.versions import Workspace


@pytest.fixture(params=["local", "memory"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "space" if request.param == "local" else f"memory://{tmp_path.name}")


@pytest.fixture(autouse=True)
def quick_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody competes for most locks of these tests."""
    monkeypatch.setattr(locks, "SETTLE_S", 0.02)
