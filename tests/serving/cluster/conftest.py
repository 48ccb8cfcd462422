"""Fixtures of the tests of serving on Ray."""

from pathlib import Path

import pytest

from rayrec.config import Config
from rayrec.serving.cluster import intake, ranker, recall, search
from tests.serving.small_world import build_workspace


@pytest.fixture(autouse=True)
def replicas_outside_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas that a test makes in this process change neither Ray nor the log."""
    for module in (intake, ranker, recall, search):
        monkeypatch.setattr(module, "bind_to_node_address", lambda: None)
        monkeypatch.setattr(module, "log_as_json", lambda: None)
    monkeypatch.setattr(recall, "check_request_ids", lambda: None)


@pytest.fixture
def world(tmp_path: Path) -> Config:
    """A workspace of its own, whose bundles may be broken."""
    return build_workspace(tmp_path / "world")
