"""The scripts under jobs/, submitted to a running Ray head with token authentication, as the README says."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rayrec.config import load
from rayrec.serving.cluster import connection
from rayrec.stages.pipeline import load_stage, run_stages
from rayrec.workspace.versions import Workspace

ROOT = Path(__file__).parents[1]
# A world of twelve videos, and networks as small as they come.
SMALL = [
    *("dataset.videos=12", "dataset.users=20", "dataset.requests=60", "dataset.topics=4", "dataset.picture=64", "dataset.fps=6"),
    *("features.image.model=resnet18", "features.image.weights=none", "features.image.size=32", "features.image.frames=1"),
    *("features.motion=null", "features.decoders=1"),
    *("training.epochs=1", "ranker.hidden=[8]", "music=null"),
]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """The address of a head's dashboard, and the workspace with an ingested world."""
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("a token of this test alone, long enough")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    config = load(ROOT / "configs" / "demo.yaml", [f"workspace={tmp_path / 'workspace'}", *SMALL])
    run_stages([load_stage("ingest")], config)
    try:
        yield connection.start(config).dashboard, config.workspace
    finally:
        connection.stop(config)


def submit(script: str, dashboard: str, workspace: str) -> subprocess.Popen[str]:
    options = ["--address", dashboard, "--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml"]
    job = ["python", f"jobs/{script}", "configs/demo.yaml", f"workspace={workspace}", *SMALL]
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", *options, "--", *job]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_jobs_run_on_a_head_that_asks_for_a_token(workspace: tuple[str, str]) -> None:
    dashboard, folder = workspace
    stranger = httpx.get(f"{dashboard}/api/jobs/", headers={"Authorization": "Bearer another token"})
    assert stranger.status_code in (401, 403)

    jobs = [submit(script, dashboard, folder) for script in ("extract_features.py", "train_ranker.py")]
    outputs = [job.communicate(timeout=240)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(outputs)
    assert Workspace(folder).read("features").num_rows == 12
    assert Workspace(folder).manifest("train") is not None
