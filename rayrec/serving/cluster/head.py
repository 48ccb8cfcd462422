"""A Ray head of our own on this machine: how it is started, with what environment, and the token of its ports.

Whatever it listens on is bound to the loopback, and Ray's own ports ask for a token besides. It has ports and a folder of its own,
so that it can run beside any other Ray.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

import rayrec
from rayrec.errors import RayrecError
from rayrec.serving.cluster import processes
from rayrec.serving.http import auth

LOOPBACK = "127.0.0.1"
DASHBOARD_PORT = 8265  # where `ray job submit` and `serve deploy` look; another one when it is taken
START_TIMEOUT_S = 120
# Ray replaces 127.0.0.1 as a node's address by that of a network interface, and then listens there; with this variable at 0 it does
# not (as it never does on macOS and Windows, hence the name).
ADDRESS_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
HAPROXY = Path(__file__).with_name("haproxy.sh")
HAPROXY_SETTINGS = {
    # A recall replica that died with a request in its hands has not answered it: HAProxy sends it again. Every call may be sent
    # twice (events bear ids).
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    # A dying replica's sockets die one after the other, and each may take a try; HAProxy 2.8 gives up after 3, without a word.
    "RAY_SERVE_HAPROXY_RETRIES": "10",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "131072",  # bytes; what is larger can't be sent again
}


class ClusterError(RayrecError):
    """The local Ray head, or the service on it, can't be started; the message says why."""


@dataclass(frozen=True)
class Address:
    """Where our head is; the content of cluster.json."""

    gcs: str  # for ray.init
    dashboard: str  # for jobs and Serve
    folder: str  # of its logs and sockets
    session: int  # the Unix session of its processes
    keys: str  # the fingerprint of the API keys that its processes know

    def processes(self) -> list[psutil.Process]:
        return processes.belonging_to(self.session, self.folder)


def start_head() -> Address:
    folder = Path(tempfile.mkdtemp(prefix="rayrec-", dir="/tmp"))  # short: the paths of sockets end at 107 bytes
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
        "temp-dir": folder / "ray",  # Ray opens it to everyone; the folder around it is closed
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
    environment.pop("RAY_ADDRESS", None)  # of another cluster
    with (folder / "head.log").open("w+") as output:
        # A session of its own, by which its processes are known; no terminal whose end would end them.
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
        said = "".join(output.readlines()[-15:])
    shutil.rmtree(folder, ignore_errors=True)
    raise ClusterError(f"Ray did not start ({problem}). It said:\n{said}")


def _environment(folder: Path, stats_port: int, metrics_port: int, fallback_port: int) -> dict[str, str]:
    """The variables of the head and of all its workers; Ray reads these settings from nowhere else."""
    package = str(Path(rayrec.__file__).parents[1])  # workers import the package that this process runs
    return {
        "RAY_AUTH_MODE": "token",
        ADDRESS_VARIABLE: "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # replicas answer people: they give way to nothing, as Ray's workers (15) would
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),  # `python` of jobs is ours
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
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # 5 are not enough on a busy machine
        # On one machine no other proxy has to be told before a replica goes.
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def cpus() -> int:
    """Logical CPUs: at least four, so that a small machine can hold the service and a stage at once."""
    return max(4, os.cpu_count() or 1)


def make_token() -> None:
    """The token of Ray's ports, where Ray looks for it, readable for its owner alone. Does nothing when there is one."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))


def use_token() -> None:
    """Switch this process to token authentication, whether or not ray was imported before RAY_AUTH_MODE was set."""
    from ray._private.authentication.authentication_token_setup import _enable_token_auth

    _enable_token_auth()
