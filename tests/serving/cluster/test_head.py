"""Whose head it is: what cluster.json says, copies and moved folders, and heads that have died in part. Without Ray."""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from rayrec.config import Config, ConfigError, load
from rayrec.serving.cluster import connection, head, service
from rayrec.serving.cluster.head import Address, ClusterError, bypass_proxies, max_connections
from rayrec.serving.cluster.processes import free_ports
from rayrec.workspace.versions import WorkspaceError

Head = tuple[Address, subprocess.Popen[bytes]]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A workspace, and a place of its own for the folders of heads."""
    (tmp_path / "heads").mkdir()
    monkeypatch.setattr(head, "TMP", str(tmp_path / "heads"))
    return load(None, [f"workspace={tmp_path / 'space'}"])


@pytest.fixture
def start(config: Config, tmp_path: Path) -> Iterator[Callable[..., Head]]:
    """Records a head whose only process sleeps in its folder, so that it has died in part."""
    started: list[subprocess.Popen[bytes]] = []

    def one(**values: object) -> Head:
        record = connection._record(config)
        folder = tmp_path / "heads" / f"rayrec-{len(started)}"
        folder.mkdir()
        with (folder / "log").open("w") as log:
            process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=log, start_new_session=True)
        started.append(process)
        address = Address(
            record=str(record),
            workspace=config.workspace,
            host=os.uname().nodename,
            started=1.0,
            gcs="127.0.0.1:1",
            dashboard="http://127.0.0.1:1",
            folder=str(folder),
            session=process.pid,
            ingress="127.77.0.1",
            keys="",
        )
        address = replace(address, **values)
        record.parent.mkdir(parents=True, exist_ok=True)
        for path in (record, folder / "cluster.json"):
            address.write(path)
        return address, process

    yield one
    for process in started:
        process.kill()
        process.wait()


def dead(process: subprocess.Popen[bytes]) -> bool:
    try:
        return process.wait(5) != 0
    except subprocess.TimeoutExpired:
        return False


def at(config: Config, workspace: Path) -> Config:
    return config.model_copy(update={"workspace": str(workspace)})


def test_a_record_is_read_as_it_was_written(start: Callable[..., Head], config: Config) -> None:
    address, _ = start()
    assert Address.read(connection._record(config)) == address
    assert json.loads(connection._record(config).read_text()) == asdict(address)


@pytest.mark.parametrize("content", ["", "{", "[]", "\0", json.dumps({"gcs": "127.0.0.1:1"})])
def test_stop_removes_a_damaged_record_and_ends_its_head(
    start: Callable[..., Head], config: Config, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, process = start()
    connection._record(config).write_text(content)
    with pytest.raises(ClusterError, match=r"state/cluster\.json does not describe a Ray head .* `rayrec stop CONFIG` removes it"):
        connection.running(config)
    assert connection.stop(config)
    assert dead(process)
    assert "does not describe a Ray head" in caplog.text
    assert not connection._record(config).exists()
    assert connection.running(config) is None
    assert not connection.stop(config)


def test_what_is_left_of_a_head_is_no_running_one_and_is_ended(start: Callable[..., Head], config: Config) -> None:
    address, process = start()
    assert address.processes()
    assert connection.running(config) is None
    connection.end_remains(config)
    assert dead(process)
    assert not Path(address.folder).exists()


def test_a_copy_of_the_workspace_leaves_the_head_alone(start: Callable[..., Head], config: Config, tmp_path: Path) -> None:
    address, process = start()
    copy = at(config, Path(shutil.copytree(config.workspace, tmp_path / "copy")))
    assert connection._ours(connection._record(copy)) is None
    connection.end_remains(copy)
    assert not connection.stop(copy)
    assert process.poll() is None
    assert connection._ours(connection._record(config)) == address
    assert connection.stop(config)
    assert dead(process)


def test_a_moved_workspace_is_noticed_and_its_head_can_be_stopped(
    start: Callable[..., Head], config: Config, tmp_path: Path
) -> None:
    _, process = start()
    moved = at(config, Path(shutil.move(config.workspace, tmp_path / "moved")))
    with pytest.raises(ClusterError, match=r"space/state/cluster\.json, which was moved to .*; run `rayrec stop CONFIG` first"):
        connection.running(moved)
    assert connection.stop(moved)
    assert dead(process)
    assert connection.running(moved) is None


def test_a_record_of_another_machine_is_not_ours(start: Callable[..., Head], config: Config, tmp_path: Path) -> None:
    _, process = start(host="elsewhere")
    shutil.rmtree(tmp_path / "heads")  # they are over there
    assert connection.running(config) is None
    connection.end_remains(config)
    with pytest.raises(ClusterError, match="was written on elsewhere: run `rayrec stop CONFIG` there"):
        connection.stop(config)
    assert process.poll() is None


@pytest.mark.parametrize("new", [True, False])
def test_failed_work_leaves_no_head_that_was_started_for_it(
    start: Callable[..., Head], config: Config, monkeypatch: pytest.MonkeyPatch, new: bool
) -> None:
    address, process = start()
    monkeypatch.setattr(connection, "_start", lambda config: (address, new))
    with pytest.raises(KeyboardInterrupt), connection.started(config):
        raise KeyboardInterrupt
    assert (process.poll() is not None) == new


def test_nothing_is_started_for_a_service_that_can_not_be(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a head was started")

    monkeypatch.setattr(connection, "start_head", refuse)
    with pytest.raises(WorkspaceError, match="'publish' has not run yet"):
        service.serve(with_serving(config, port=free_ports(1)[0]))
    with pytest.raises(ConfigError, match="set RAYREC_API_KEYS"):
        service.serve(with_serving(config, host="0.0.0.0"))
    monkeypatch.setenv("RAYREC_API_KEYS", "key")
    with pytest.raises(ClusterError, match=r"can't listen on port 8000 of 203\.0\.113\.1 \(Cannot assign requested address\)"):
        service.serve(with_serving(config, host="203.0.113.1"))
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ClusterError, match="is in use by another program"):
        service.serve(with_serving(config, port=other.getsockname()[1]))
    assert not Path(config.workspace).exists()


def with_serving(config: Config, **values: object) -> Config:
    return config.model_copy(update={"serving": config.serving.model_copy(update=values)})


def test_stop_makes_nothing(config: Config) -> None:
    assert not connection.stop(config)
    assert not Path(config.workspace).exists()


def test_two_heads_have_different_loopback_addresses() -> None:
    found = {head._ingress(port) for port in range(1, 65536)}
    assert len(found) == 65535
    assert {address.split(".")[0] for address in found} == {"127"}
    assert all(0 <= int(part) < 256 for address in found for part in address.split("."))


@pytest.mark.parametrize(("files", "connections"), [(resource.RLIM_INFINITY, 4096), (10**6, 4096), (4096, 1536), (1024, 307)])
def test_haproxy_takes_what_the_limit_of_files_allows(monkeypatch: pytest.MonkeyPatch, files: int, connections: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, files))
    assert max_connections() == connections


def test_too_few_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 512))
    with pytest.raises(ClusterError, match="only 512 files here, and the service needs 1024; raise `ulimit -Hn`"):
        max_connections()


@pytest.mark.parametrize(
    ("given", "expected"), [({}, []), ({"NO_PROXY": "corp"}, ["corp"]), ({"no_proxy": "a,b", "NO_PROXY": "b"}, ["a", "b"])]
)
def test_no_proxy_stands_before_the_loopback(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: list[str]) -> None:
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    bypass_proxies()
    bypass_proxies()
    for name in ("no_proxy", "NO_PROXY"):
        assert os.environ[name].split(",") == [*expected, "localhost", "127.0.0.1", "::1"]
    assert "no_grpc_proxy" not in os.environ
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")  # so that what was there before comes back


def test_the_token_can_not_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ClusterError, match=r"file/\.ray/auth_token, the token of Ray's ports, can't be written .*; set HOME"):
        head.make_token()


def test_a_long_or_missing_tmpdir_is_not_for_rays_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    long = tmp_path / ("x" * 60)
    long.mkdir()
    for place, expected in ((long, "/tmp/ray"), (Path("/nowhere"), "/tmp/ray"), (Path("/tmp"), None)):
        monkeypatch.setenv("TMPDIR", str(place))
        assert connection._temp_dir() == expected


@pytest.mark.parametrize("named", ["127.0.0.1:1", "ray://127.0.0.1:1", "http://127.0.0.1:1"])
def test_a_dead_ray_address_is_named(monkeypatch: pytest.MonkeyPatch, config: Config, named: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", named)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests may have connected this process
    with pytest.raises(ClusterError, match=f"RAY_ADDRESS is {named}, but no Ray cluster can be joined there"):
        connection.connect(config)


# Listens at two ports, like the parts of a head.
PARTS = """
import socket, sys, time
ports = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[2:]]
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("own_dashboard", [True, False])
def test_a_head_without_its_dashboard_does_not_run_though_another_one_is_at_its_port(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_dashboard: bool
) -> None:
    gcs, dashboard = free_ports(2)
    folder = tmp_path / "heads" / "rayrec-0"
    folder.mkdir()
    mine, other = ((gcs, dashboard), ()) if own_dashboard else ((gcs,), (dashboard,))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PARTS, f"{place}/x", *map(str, ports)], stdout=subprocess.PIPE, start_new_session=True
        )
        for place, ports in ((folder, mine), (tmp_path / "other", other))
    ]
    monkeypatch.setattr(psutil.Process, "name", lambda self: "raylet")
    monkeypatch.setattr(head, "PARTS", {"raylet"})
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        address = Address(
            record=str(connection._record(config)),
            workspace=config.workspace,
            host=os.uname().nodename,
            started=1.0,
            gcs=f"127.0.0.1:{gcs}",
            dashboard=f"http://127.0.0.1:{dashboard}",
            folder=str(folder),
            session=started[0].pid,
            ingress="127.77.0.1",
            keys="",
        )
        assert address.runs() == own_dashboard
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_a_head_whose_port_another_one_took_meanwhile_starts_at_another(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ours,) = free_ports(1)
    monkeypatch.setattr(head, "DASHBOARD_PORT", ours)
    tried = []

    def start(record: Path, workspace: str, timeout_s: float, dashboard: int) -> int:
        tried.append(dashboard)
        if dashboard == ours:
            taken.bind(("127.0.0.1", ours))
            taken.listen()
            raise ClusterError("not all of its parts run")
        return dashboard

    monkeypatch.setattr(head, "_start_head", start)
    with socket.socket() as taken:
        head.start_head(tmp_path / "cluster.json", "space", 1.0)
    assert tried[0] == ours
    assert len(tried) == 2
    assert tried[1] != ours
