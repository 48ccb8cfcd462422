"""Stages whose work needs no cluster run where Ray can't even be imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from rayrec.workspace.versions import Workspace

# Refuses every import of Ray, then runs one command after another.
PROGRAM = """
import sys

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ray":
            raise ImportError("Ray is blocked")

sys.meta_path.insert(0, NoRay())
from rayrec.cli import main
for command in sys.argv[2:]:
    try:
        main([command, sys.argv[1]])
    except SystemExit as end:
        if end.code:
            raise
"""
TINY = """
dataset: {kind: world, videos: 12, users: 20, topics: 3, days: 2, requests: 60, picture: 64, fps: 2}
split: {validation: 0.2, test: 0.2}
ranker: {embedding_size: 4, hidden: [8]}
training: {epochs: 1}
recall: {candidates: 10}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(f"workspace: {tmp_path / 'space'}\n{TINY}")
    return path


def run(config: Path, *commands: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, str(config), *commands], capture_output=True, text=True)


def test_ingest_train_evaluate_and_publish_need_no_ray(config: Path) -> None:
    done = run(config, "ingest", "train", "evaluate", "publish", "status")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    workspace = Workspace(config.parent / "space")
    assert all(workspace.manifest(stage) for stage in ("ingest", "train", "evaluate", "publish"))


def test_a_stage_that_needs_ray_asks_for_it(config: Path) -> None:
    done = run(config, "ingest", "extract")
    assert done.returncode == 1
    assert "Ray is blocked" in done.stderr
