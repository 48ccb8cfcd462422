"""The service on a workspace in S3, on a real head: it answers, swaps and rolls back, and says when credentials have changed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.fs as pafs
import pytest
import yaml

from rayrec.config import Config, dump
from rayrec.serving.bundle import locate
from rayrec.serving.cluster import connection, processes
from rayrec.serving.cluster import service as cluster
from rayrec.serving.cluster.head import ClusterError
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.s3 import S3
from tests.serving.small_world import JPEG


@pytest.fixture
def in_s3(published: Config, s3: S3, tmp_path: Path) -> Iterator[Config]:
    """The small world's workspace, copied into a bucket; the events stay on this machine."""
    uri = s3.uri(f"{s3.bucket()}/space")
    fs, path = open_filesystem(uri)
    pafs.copy_files(published.workspace, path, destination_filesystem=fs)
    serving = published.serving.model_copy(update={"port": processes.free_ports(1)[0], "state": str(tmp_path / "events.db")})
    config = published.model_copy(update={"workspace": uri, "serving": serving})
    yield config
    connection.stop(config)


SWAPS = """
import sys
from rayrec.config import load
from rayrec.serving.cluster import service, swaps
config = load(sys.argv[1])
swaps.swap(config)
print(service.current_rollout(config).version)
swaps.rollback(config)
print(service.current_rollout(config).version)
"""


def test_a_bundle_in_s3_is_served_swapped_and_rolled_back(in_s3: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(in_s3.workspace)
    first = locate(workspace, None)[0]
    with httpx.Client(base_url=cluster.serve(in_s3), timeout=30) as client:
        answer = client.post("/v1/recommend", json={"user_id": "u1", "k": 5})
        assert (answer.status_code, len(answer.json()["videos"])) == (200, 5)
        assert client.get("/v1/videos/v6/cover").content == JPEG
        second = run_stage(workspace, load_stage("publish"), in_s3, force=True)[0].version
        (tmp_path / "s3.yaml").write_text(yaml.safe_dump(dump(in_s3)))
        # In a process of its own, because it joins the head.
        swapped = subprocess.run([sys.executable, "-c", SWAPS, str(tmp_path / "s3.yaml")], capture_output=True, text=True)
        assert swapped.stdout.split() == [second, first], swapped.stderr
        assert client.get("/healthz").json()["bundle"] == first == locate(workspace, None)[0] != second
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
    with pytest.raises(
        ClusterError, match=r"AWS_\.\.\. of the environment have changed since the head was started; run `rayrec stop"
    ):
        cluster.serve(in_s3)
