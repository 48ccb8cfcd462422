"""Workspaces on both kinds of file systems: this machine's, and one that fsspec opens."""

from pathlib import Path

import pytest

from rayrec.workspace.versions import Workspace


@pytest.fixture(params=["local", "memory"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "space" if request.param == "local" else f"memory://{tmp_path.name}")
