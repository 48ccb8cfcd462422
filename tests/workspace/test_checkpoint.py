"""Checkpoints: what was saved comes back, and nothing that a file holds is executed."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import torch

from rayrec.workspace.checkpoint import Checkpoint, CheckpointError
from rayrec.workspace.files import open_filesystem
from tests.fixtures.s3 import S3


class Stop:
    """Whoever pickles it is interrupted."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        raise InterruptedError("stop")


class Attack:
    """Whoever unpickles it runs a command that makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.proof}",)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(pafs.LocalFileSystem(), f"{tmp_path}/state.pt")


def test_what_was_saved_comes_back(checkpoint: Checkpoint) -> None:
    assert checkpoint.load() is None
    for step in (1, 2):
        checkpoint.save({"step": step, "weights": {"w": torch.arange(3) * step}})
    state = checkpoint.load()
    assert state is not None
    assert (state["step"], state["weights"]["w"].tolist()) == (2, [0, 2, 4])
    checkpoint.delete()
    assert checkpoint.load() is None


@pytest.mark.parametrize("content", [b"not a checkpoint", b"{}", b'{"file": 2}', b'{"file": "/etc/passwd"}', b"[]"])
def test_a_file_that_is_no_checkpoint_is_named(checkpoint: Checkpoint, content: bytes) -> None:
    path = checkpoint.path
    Path(path).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^{path}: not a checkpoint that can be read; delete {path} to start anew$"):
        checkpoint.load()
    checkpoint.save({"step": 1})
    assert checkpoint.load() == {"step": 1}
    Path(f"{path}.0").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=rf"^{path}\.0: not a checkpoint that can be read; delete {path} to start anew$"):
        checkpoint.load()


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_save_that_breaks_off_leaves_the_state_of_before(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    uri = request.getfixturevalue("s3_workspace") if place == "s3" else str(tmp_path)
    fs, folder = open_filesystem(uri)
    checkpoint = Checkpoint(fs, f"{folder}/deep/state.pt")
    checkpoint.save({"step": 1, "weights": torch.arange(5)})
    for _ in range(2):
        with pytest.raises(InterruptedError if place == "local" else Exception, match="stop"):
            checkpoint.save({"weights": torch.zeros(2**20), "step": Stop()})
        state = checkpoint.load()
        assert state is not None
        assert (state["step"], state["weights"].tolist()) == (1, [0, 1, 2, 3, 4])
    checkpoint.save({"step": 2})
    assert checkpoint.load() == {"step": 2}
    checkpoint.delete()
    assert checkpoint.load() is None
    assert not [item for item in fs.get_file_info(pafs.FileSelector(folder, recursive=True)) if item.is_file]


def test_a_large_state_goes_into_a_bucket_in_parts_and_is_never_copied(s3: S3) -> None:
    bucket = s3.bucket()
    fs, folder = open_filesystem(s3.uri(bucket))
    checkpoint = Checkpoint(fs, f"{folder}/state.pt")
    weights = torch.arange(6 * 2**20)  # 48 MiB
    checkpoint.save({"weights": weights})
    requests = [request for request in s3.requests() if f"/{bucket}/state.pt" in request]
    assert sum(request.startswith("PUT") for request in requests) > 2
    with open(s3.log) as log:
        assert not [line for line in log if bucket in line and ("copy" in line.lower() or '"DELETE' in line)]
    state = checkpoint.load()
    assert state is not None
    assert torch.equal(state["weights"], weights)


def test_a_state_of_many_tensors_takes_few_requests(s3: S3) -> None:
    bucket = s3.bucket()
    fs, folder = open_filesystem(s3.uri(bucket))
    checkpoint, state = Checkpoint(fs, f"{folder}/state.pt"), {f"w{i}": torch.full((64,), i) for i in range(200)}
    checkpoint.save(state)
    loaded = checkpoint.load()
    assert loaded is not None
    assert all(torch.equal(loaded[name], weights) for name, weights in state.items())
    assert len([request for request in s3.requests() if f"/{bucket}/state.pt" in request]) < 20


SAVES = """
import resource, sys, torch
from rayrec.workspace.checkpoint import Checkpoint
from rayrec.workspace.files import open_filesystem
fs, folder = open_filesystem(sys.argv[1])
weights = torch.ones(2**26)  # 256 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Checkpoint(fs, f"{folder}/state.pt").save({"weights": weights})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_saving_takes_no_memory_of_the_size_of_the_state(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SAVES, str(tmp_path)], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 64 * 1024  # KiB


@pytest.mark.parametrize("zipped", [True, False])
def test_a_command_in_a_checkpoint_is_refused_and_not_run(checkpoint: Checkpoint, tmp_path: Path, zipped: bool) -> None:
    proof = tmp_path / "it_ran"
    checkpoint.save({"step": 1})
    for path in (checkpoint.path, f"{checkpoint.path}.0"):
        torch.save({"step": 1, "weights": Attack(proof)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"state\.pt(\.0)?: not a checkpoint that can be read"):
            checkpoint.load()
        assert not proof.exists()
        Path(path).write_bytes(pickle.dumps(Attack(proof)))
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            checkpoint.load()
        assert not proof.exists()
        Path(checkpoint.path).write_bytes(b'{"file": 0}')
