"""Starts our own Ray head on this machine, with its environment and the token of its ports.

All of its ports are bound to the loopback, and Ray's own ports also require a token. The head has its own ports and its own folder,
so that it can run beside any other Ray.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

import rayrec
from rayrec.errors import RayrecError
from rayrec.serving.cluster import processes
from rayrec.serving.http import auth

LOOPBACK = "127.0.0.1"
DASHBOARD_PORT = 8265  # where `ray job submit` and `serve deploy` look; if it is taken, another port is used
START_TIMEOUT_S = 120
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
}


class ClusterError(RayrecError):
    """The local Ray head or the service does not run or can't be started; the message says why."""


@dataclass(frozen=True)
class Address:
    """Where our head is; this is the content of cluster.json."""

    gcs: str  # for ray.init
    dashboard: str  # for jobs and Serve
    folder: str  # of its logs and sockets
    session: int  # the Unix session of its processes
    keys: str  # the fingerprint of the API keys in the environment of its processes

    @classmethod
    def read(cls, record: Path) -> Self:
        """Raises `FileNotFoundError` if there is no record, `ClusterError` if it can't be read."""
        try:
            return cls(**json.loads(record.read_text()))
        except (ValueError, TypeError) as error:
            raise ClusterError(
                f"{record} does not describe a Ray head ({error}); end the processes of that head, if any, and delete the file"
            ) from error

    def processes(self) -> list[psutil.Process]:
        return processes.belonging_to(self.session, self.folder)


def start_head() -> Address:
    folder = Path(tempfile.mkdtemp(prefix="rayrec-", dir="/tmp"))  # short, since paths of sockets have at most 107 bytes
    gcs, agent, client, *haproxy_ports = processes.free_ports(6)
    dashboard = DASHBOARD_PORT if processes.is_free(LOOPBACK, DASHBOARD_PORT) else processes.free_ports(1)[0]
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
    environment = {**os.environ, **_environment(folder, *haproxy_ports)}
    environment.pop("RAY_ADDRESS", None)  # it would name another cluster
    with (folder / "head.log").open("w+") as output:
        # A new session identifies the processes of the head, and they do not end with the terminal.
        head = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        keys = auth.Keys.of().fingerprint()
        address = Address(f"{LOOPBACK}:{gcs}", f"http://{LOOPBACK}:{dashboard}", str(folder), head.pid, keys)
        try:
            if head.wait(START_TIMEOUT_S) == 0:
                return address
            problem = f"status {head.returncode}"
        except subprocess.TimeoutExpired:
            problem = f"not ready after {START_TIMEOUT_S} s"
        finally:
            if head.returncode != 0:
                processes.kill(address.session, address.folder)
                head.wait()
        output.seek(0)
        last_lines = "".join(output.readlines()[-15:])
    shutil.rmtree(folder, ignore_errors=True)
    raise ClusterError(f"Ray did not start ({problem}). Its output was:\n{last_lines}")


def _environment(folder: Path, stats_port: int, metrics_port: int, fallback_port: int) -> dict[str, str]:
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
    """Creates the token of Ray's ports where Ray looks for it, readable only by its owner, unless there is one."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))


def use_token() -> None:
    """Switches this process to token authentication, even if ray was imported before RAY_AUTH_MODE was set."""
    from ray._private.authentication.authentication_token_setup import _enable_token_auth

    _enable_token_auth()
