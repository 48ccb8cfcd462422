"""Locks: one holder at a time, who is named; a dead one is replaced, and one that was taken for dead does not publish."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from rayrec.config import Config, load
from rayrec.workspace import locks
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.locks import Holder, held
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import MARKER, Manifest, Workspace, WorkspaceError
from tests.fixtures.s3 import S3

BEAT_S, DEAD_S = 0.1, 1.0
HOLDS = """
import sys, time
from rayrec.workspace import locks
from rayrec.workspace.versions import Workspace
locks.BEAT_S, locks.SETTLE_S = 0.1, 0.05
with Workspace(sys.argv[1]).making("ingest", "f0"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BEAT_S": BEAT_S, "DEAD_S": DEAD_S, "POLL_S": 0.02, "SETTLE_S": 0.1}.items():
        monkeypatch.setattr(locks, name, value)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough between a write and the look at it that a thread of a busy machine, which had looked before, has written, too."""
    monkeypatch.setattr(locks, "SETTLE_S", 1.0)


@pytest.fixture(params=["local", "s3", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of each kind of file system; only the first has locks of its own."""
    if request.param == "s3":
        s3: S3 = request.getfixturevalue("s3")
        return s3.uri(f"{s3.bucket()}/space")
    return str(tmp_path / "space") if request.param == "local" else f"memory://locks-{tmp_path.name}"


@pytest.fixture
def elsewhere(place: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that is making a version of `ingest`."""
    if place.startswith("memory://"):
        pytest.skip("no other process sees this one's memory")
    process = subprocess.Popen([sys.executable, "-c", HOLDS, place], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_run_says_who_is_at_work(place: str, elsewhere: subprocess.Popen[str]) -> None:
    host = socket.gethostname()
    said = rf"/ingest/f0-0: process {elsewhere.pid} on {host}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC; wait until it has ended$"
    with pytest.raises(WorkspaceError, match=said), Workspace(place).making("ingest", "f0"):
        pass


def test_a_killed_holder_is_replaced(place: str, elsewhere: subprocess.Popen[str], caplog: pytest.LogCaptureFixture) -> None:
    elsewhere.send_signal(signal.SIGKILL)
    elsewhere.wait()
    started = time.monotonic()
    with Workspace(place).making("ingest", "f0") as version:
        assert version == "f0-0"
    if "://" in place:
        assert time.monotonic() - started > DEAD_S
        assert f"process {elsewhere.pid} on {socket.gethostname()}" in caplog.text
        assert "is dead: it has not renewed" in caplog.text
    else:
        assert time.monotonic() - started < DEAD_S


def test_a_holder_that_was_stopped_for_too_long_does_not_publish(place: str) -> None:
    if "://" not in place:
        pytest.skip("the lock of a local file system is not lost while its process exists")
    first, second = Workspace(place), Workspace(place)
    manifest = Manifest("ingest", "f0-0", "f0", {}, {}, {}, 0, 0, 0, 0.0, 0)
    with first.making("ingest", "f0"):
        first._locks[f"ingest/f0-0/{MARKER}"]._ended.set()  # as if the process were stopped
        with second.making("ingest", "f0"):
            with pytest.raises(
                WorkspaceError, match=r"unfinished: process \d+ on .* has taken this work over, because this process"
            ):
                first.publish(manifest)
            assert first.manifest("ingest") is None
            second.publish(manifest)
    assert first.manifest("ingest") == manifest


def test_a_holder_that_was_stopped_does_not_change_what_another_has_published(place: str) -> None:
    if "://" not in place:
        pytest.skip("the lock of a local file system is not lost while its process exists")
    ours, theirs = Workspace(place), Workspace(place)

    def overtaken(run: StageRun) -> None:
        run.write_file("report", b"ours")
        run.workspace._locks[f"ingest/{run.version}/{MARKER}"]._ended.set()  # as if the process were stopped
        run_stage(theirs, Stage("ingest", lambda other: other.write_file("report", b"theirs")), _config())
        run.write_file("report", b"ours, but late")

    with pytest.raises(WorkspaceError, match=r"/unfinished is gone: another process has ended this work, or somebody has deleted"):
        run_stage(ours, Stage("ingest", overtaken), _config())
    assert ours.read_file(f"{ours.check('ingest')}/report") == b"theirs"


@pytest.mark.usefixtures("settled")
def test_one_of_many_gets_the_lock_and_the_others_wait_their_turn(place: str) -> None:
    fs, root = open_filesystem(place)
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        with held(fs, f"{root}/swap.lock"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.2)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert most == [1, 1, 1]


@pytest.mark.usefixtures("settled")
def test_of_two_that_replace_a_dead_holder_one_goes_on(place: str) -> None:
    if "://" not in place:
        pytest.skip("the system gives such a lock to one")
    fs, root = open_filesystem(place)
    fs.create_dir(root, recursive=True)
    with fs.open_output_stream(f"{root}/lock") as stream:
        stream.write(Holder(host="gone", pid=1, job="", since="long ago", token="dead").to_json())
    outcomes: list[str] = []
    together = threading.Barrier(2)

    def work() -> None:
        together.wait()
        try:
            with held(fs, f"{root}/lock", lambda holder: f"held by {holder}"):
                outcomes.append("held")
                time.sleep(4 * BEAT_S + DEAD_S)
        except WorkspaceError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    winner, loser = sorted(outcomes, key=len)
    assert winner == "held"
    assert loser.startswith(f"held by process {os.getpid()} on {socket.gethostname()}, since ")


def test_a_lock_that_was_given_back_is_free_at_once(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "DEAD_S", 60.0)
    workspace = Workspace(place)
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(RuntimeError, match="failed"), workspace.making("ingest", "f0"):
            raise RuntimeError("failed")
        assert time.monotonic() - started < 60


def test_a_stage_that_ends_leaves_no_lock(place: str) -> None:
    workspace = Workspace(place)
    manifest, _ = run_stage(workspace, Stage("ingest", lambda run: run.count(0, 0)), _config())
    time.sleep(2 * BEAT_S)
    assert workspace.fs.get_file_info(f"{workspace.folder('ingest')}/{MARKER}").type == pafs.FileType.NotFound
    assert manifest.files == {}


def test_a_folder_that_is_deleted_meanwhile_stays_deleted(place: str) -> None:
    workspace = Workspace(place)

    def delete(run: StageRun) -> None:
        run.fs.delete_dir(run.folder)
        time.sleep(3 * BEAT_S)

    with pytest.raises(WorkspaceError, match="was deleted while it was made"):
        run_stage(workspace, Stage("ingest", delete), _config())


def test_the_id_of_the_ray_job_is_part_of_who_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(locks.RAY_JOB, json.dumps({"metadata": {"job_submission_id": "raysubmit_7"}}))
    assert ", Ray job raysubmit_7, since " in str(Holder())
    monkeypatch.setenv(locks.RAY_JOB, "{}")
    assert "Ray job" not in str(Holder())


def test_a_store_that_fails_for_a_moment_does_not_end_the_holder(s3_workspace: str, caplog: pytest.LogCaptureFixture) -> None:
    fs, root = open_filesystem(s3_workspace)
    caplog.set_level(logging.WARNING)
    with held(fs, f"{root}/lock") as lock:
        written = lock._write
        lock._write = lambda text: (_ for _ in ()).throw(OSError("the network is away"))
        time.sleep(3 * BEAT_S)
        lock._write = written
        time.sleep(3 * BEAT_S)
        lock.check()
        assert lock._mine.beat > 2
    assert "can't be renewed: the network is away" in caplog.text


def _config() -> Config:
    return load(None, [])
