"""Logs of the service are bounded in size and age. Without Ray."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayrec.serving.cluster import logs

DAY_S = 86_400


@pytest.fixture
def ended() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def written(path: Path, days_ago: float, size: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    at = time.time() - days_ago * DAY_S
    os.utime(path, (at, at))
    return path


def test_logs_of_ended_processes_go_with_age(tmp_path: Path, ended: int) -> None:
    old = [
        written(tmp_path / name, 20)
        for name in (f"worker-ab12-ffff-{ended}.err", f"worker-ab12-ffff-{ended}.out.3", f"serve/replica_{ended}.log.1")
    ]
    kept = [
        written(tmp_path / f"worker-cd34-ffff-{ended}.err", 5),
        written(tmp_path / f"worker-ef56-ffff-{os.getpid()}.err", 20),  # its process lives, and writes into it
        written(tmp_path / "raylet.out", 20),
    ]
    assert logs.remove_old(tmp_path) == len(old)
    assert [path.exists() for path in [*old, *kept]] == [False] * 3 + [True] * 3


def test_the_oldest_logs_go_when_there_are_too_many(tmp_path: Path, ended: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 250)
    paths = [written(tmp_path / f"worker-{days}-{ended}.err", days, size=100) for days in (1, 2, 3, 4)]
    assert logs.remove_old(tmp_path) == 2
    assert [path.exists() for path in paths] == [True, True, False, False]


def test_folders_of_ended_heads_go_and_no_others(tmp_path: Path) -> None:
    def head(name: str, days_ago: float) -> Path:
        written(tmp_path / name / "head.log", days_ago)
        at = time.time() - days_ago * DAY_S
        os.utime(tmp_path / name, (at, at))
        return tmp_path / name

    gone, young, living, other = head("rayrec-a", 3), head("rayrec-b", 0.1), head("rayrec-c", 3), head("somebody-else", 3)
    (tmp_path / "rayrec-link").symlink_to(other)
    with (living / "head.log").open("a") as output:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=output)
    try:
        logs.remove_ended_heads(tmp_path)
        assert [path.exists() for path in (gone, young, living, other)] == [False, True, True, True]
    finally:
        process.communicate(b"\n")
