"""Starts our own Ray head on this machine, with its environment and the token of its ports.

All of its ports are bound to the loopback, and Ray's own ports also require a token. The head has its own ports and its own folder,
so that it can run beside any other Ray. The replicas of its service listen at a loopback address that no other head uses, so that a
proxy which still knows the port of a replica that has died can't reach another service there.
"""

import contextlib
import json
import math
import os
import resource
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import psutil

import rayrec
from rayrec.errors import RayrecError
from rayrec.serving.cluster import logs, processes
from rayrec.serving.http import auth
from rayrec.workspace.stores import credentials

LOOPBACK = "127.0.0.1"
PARTS = {"gcs_server", "raylet"}  # processes without which a head is none
DASHBOARD_PORT = 8265  # where `ray job submit` and `serve deploy` look; if it is taken, another port is used
START_TIMEOUT_S = 120
TMP = "/tmp"  # TMPDIR may be long, but the path of a socket has at most 107 bytes
MAX_CONNECTIONS = 4096  # of HAProxy, to which each costs 2.5 file descriptors
MIN_FILES = 1024
# If a node's address is 127.0.0.1, Ray replaces it by that of a network interface, and then listens there. With this variable at 0,
# Ray does not (it never does on macOS and Windows, hence the name).
ADDRESS_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
HAPROXY = Path(__file__).with_name("haproxy.sh")
HAPROXY_SETTINGS = {
    # If a recall replica dies before it has answered a request, HAProxy sends the request to another one. Every call may be sent
    # twice, since events have ids.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    # The sockets of a dying replica close one after the other, and each may use up a retry; by default HAProxy 2.8 closes the
    # connection after 3 retries without an answer.
    "RAY_SERVE_HAPROXY_RETRIES": "10",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "131072",  # bytes; a larger request can't be sent again
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",  # between two checks of a replica
    # A host that is gone does not refuse connections. With Ray's 5 s, callers would wait that long before another replica is asked.
    "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "1",
    "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "5",  # serving.timeout_s, after which a replica that hangs counts as not answering
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # Serve starts HAProxy again after three checks that failed
}


class ClusterError(RayrecError):
    """The local Ray head or the service does not run or can't be started; the message says why."""


@dataclass(frozen=True)
class Address:
    """Where our head is, and whose it is; this is the content of cluster.json."""

    record: str  # the path of cluster.json, so that a copy of it is known as such
    workspace: str
    host: str  # the name of the machine
    started: float  # UTC s
    gcs: str  # for ray.init
    dashboard: str  # for jobs and Serve
    folder: str  # of its logs and sockets
    session: int  # the Unix session of its processes
    ingress: str  # the loopback address of its service's replicas
    keys: str  # the fingerprint of the API keys in the environment of its processes
    credentials: str = ""  # the same of the credentials for S3

    @classmethod
    def read(cls, record: Path) -> Self:
        """Raises `FileNotFoundError` if there is no record, `ClusterError` if it can't be read."""
        try:
            return cls(**json.loads(record.read_text()))
        except FileNotFoundError:
            raise
        except (OSError, ValueError, TypeError) as error:
            raise ClusterError(
                f"{record} does not describe a Ray head ({error}); `rayrec stop CONFIG` removes it, and ends that head if found"
            ) from error

    def write(self, record: Path) -> None:
        """Replaces a record in one step. Raises `OSError` if it can't be written."""
        new = record.with_suffix(".new")
        with new.open("w") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())  # else it might be empty after a power cut
        new.replace(record)

    def processes(self) -> list[psutil.Process]:
        return processes.belonging_to(self.session, self.folder)

    def runs(self) -> bool:
        """Whether the head is whole. After the death of one of its parts, some of its processes may go on.

        Others may then listen at its ports, such as the dashboard of another head, to which nothing of ours may be sent.
        """
        gcs, _, port = self.gcs.rpartition(":")
        dashboard = urlsplit(self.dashboard)
        if not processes.answers(gcs, int(port)) or not processes.answers(dashboard.hostname or "", dashboard.port or 0):
            return False
        found = self.processes()
        return processes.names(found) >= PARTS and processes.listen_at(found, {int(port), dashboard.port or 0})

    def end(self) -> bool:
        """Kills what is left of the head, and deletes its folder; returns whether anything ran."""
        found = processes.kill(self.session, self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        return found

    @property
    def listen(self) -> Path:
        """The file that tells haproxy.py at which address the service listens; its replicas listen at `ingress`."""
        return Path(self.folder) / "listen"


def recorded_heads(record: Path) -> list[Address]:
    """The heads on this machine that were started for a record, by what they wrote into their own folders."""
    found = []
    for copy in Path(TMP).glob(f"{logs.HEAD_FOLDER}*/cluster.json"):
        with contextlib.suppress(ClusterError, OSError):
            address = Address.read(copy)
            if address.record == str(record) and address.folder == str(copy.parent):
                found.append(address)
    return found


def start_head(record: Path, workspace: str, timeout_s: float) -> Address:
    """Starts a head, and writes its `Address` to its folder and to the record. Raises `ClusterError` if it does not start.

    HAProxy will wait `timeout_s` for a replica's answer.
    """
    if processes.is_free(LOOPBACK, DASHBOARD_PORT):
        try:
            return _start_head(record, workspace, timeout_s, DASHBOARD_PORT)
        except ClusterError:
            if processes.is_free(LOOPBACK, DASHBOARD_PORT):
                raise
            # Another head, which started at the same time, has taken the port.
    return _start_head(record, workspace, timeout_s, processes.free_ports(1)[0])


def _start_head(record: Path, workspace: str, timeout_s: float, dashboard: int) -> Address:
    """The same, with the dashboard at this port."""
    connections = max_connections()
    logs.remove_ended_heads(Path(TMP))
    try:
        folder = Path(tempfile.mkdtemp(prefix=logs.HEAD_FOLDER, dir=TMP))
    except OSError as error:
        raise ClusterError(f"the folder of the Ray head can't be made in {TMP}: {error.strerror}") from error
    gcs, agent, client, *haproxy_ports = processes.free_ports(6)
    options = {
        "port": gcs,
        "node-ip-address": LOOPBACK,
        "dashboard-host": LOOPBACK,
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "min-worker-port": 0,  # any free port
        "max-worker-port": 0,
        "num-cpus": cpus(),
        "temp-dir": folder / "ray",  # Ray makes it accessible to everyone, but the folder around it is not
    }
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    bypass_proxies()
    environment = {**os.environ, **_environment(folder, connections, timeout_s, *haproxy_ports)}
    environment.pop("RAY_ADDRESS", None)  # it would name another cluster
    with (folder / "head.log").open("w+") as output:
        # A new session identifies the processes of the head, and they do not end with the terminal.
        head = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        address = Address(
            record=str(record),
            workspace=workspace,
            host=socket.gethostname(),
            started=round(time.time(), 3),
            gcs=f"{LOOPBACK}:{gcs}",
            dashboard=f"http://{LOOPBACK}:{dashboard}",
            folder=str(folder),
            session=head.pid,
            ingress=_ingress(gcs),
            keys=auth.Keys.of().fingerprint(),
            credentials=credentials(),
        )
        try:
            problem = _await_start(head, address, record)
        except BaseException:
            address.end()
            raise
        if not problem:
            return address
        output.seek(0)
        last_lines = "".join(output.readlines()[-15:])
    address.end()
    head.wait()
    raise ClusterError(f"Ray did not start ({problem}). Its output was:\n{last_lines}")


def _await_start(head: "subprocess.Popen[bytes]", address: Address, record: Path) -> str:
    """Waits until the head runs, and records it. Returns why it did not start, "" if it did."""
    try:
        address.write(Path(address.folder) / "cluster.json")
        deadline, port = time.monotonic() + START_TIMEOUT_S, urlsplit(address.dashboard).port or 0
        while head.poll() is None:
            # Ray waits long for a dashboard that will never come.
            if processes.answers(LOOPBACK, port) and not processes.listen_at(address.processes(), {port}):
                return f"another program listens at port {port}"
            if time.monotonic() > deadline:
                return f"not ready after {START_TIMEOUT_S} s"
            time.sleep(0.2)
        if head.returncode:
            return f"status {head.returncode}"
        if not address.runs():  # such as one whose dashboard found its port taken: Ray does without
            return "not all of its parts run"
        address.write(record)
    except OSError as error:
        return f"its record can't be written: {error}"
    return ""


def _ingress(gcs_port: int) -> str:
    """An address of the loopback for each head: two heads that run never have the same port of their GCS."""
    return f"127.77.{gcs_port >> 8}.{gcs_port & 255}"


def max_connections() -> int:
    """How many connections HAProxy can take with the files that a process may open here. Raises `ClusterError` if these are few."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    if files < MIN_FILES:
        raise ClusterError(f"a process may open only {files} files here, and the service needs {MIN_FILES}; raise `ulimit -Hn`")
    return min(MAX_CONNECTIONS, int((files - 256) / 2.5))


def _environment(
    folder: Path, connections: int, timeout_s: float, stats_port: int, metrics_port: int, fallback_port: int
) -> dict[str, str]:
    """The environment variables of the head and of all its workers. Ray has no other place for these settings."""
    package = str(Path(rayrec.__file__).parents[1])  # so that workers import the same package as this process
    return {
        "RAY_AUTH_MODE": "token",
        ADDRESS_VARIABLE: "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray's default of 15 would make replicas give way to other processes
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),  # the `python` of jobs
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(HAPROXY),
        **HAPROXY_SETTINGS,
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(math.ceil(timeout_s)),
        "RAY_SERVE_HAPROXY_MAXCONN": str(connections),
        **logs.SETTINGS,
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # the default of 5 is too short on a busy machine
        # On one machine, no other proxy must be told before a replica ends.
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def cpus() -> int:
    """The number of logical CPUs, but at least four, so that a small machine has room for both the service and a stage."""
    return max(4, os.cpu_count() or 1)


def make_token() -> None:
    """Creates the token of Ray's ports where Ray looks for it, readable only by its owner, unless there is one.

    Raises `ClusterError` if it can't be written.
    """
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
    except OSError as error:
        raise ClusterError(
            f"{path}, the token of Ray's ports, can't be written ({error.strerror}); set HOME to a folder where you may write, or "
            "RAY_AUTH_TOKEN_PATH to a file that holds a token"
        ) from error


def bypass_proxies() -> None:
    """Has this process and its children reach the loopback directly, whatever HTTP proxy the environment names."""
    for names in (("no_proxy", "NO_PROXY"), ("no_grpc_proxy",)):
        given = [host for name in names for host in os.environ.get(name, "").split(",") if host]
        if given or names[0] == "no_proxy":
            os.environ |= dict.fromkeys(names, ",".join(dict.fromkeys([*given, "localhost", LOOPBACK, "::1"])))


def use_token() -> None:
    """Switches this process to token authentication, even if ray was imported before RAY_AUTH_MODE was set."""
    from ray._private.authentication.authentication_token_setup import _enable_token_auth

    _enable_token_auth()
