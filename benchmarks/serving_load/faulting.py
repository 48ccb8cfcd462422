"""What goes wrong under a service: a replica, a node of the cluster, or the store is killed, and comes back."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import yaml
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from rayrec.config import Config, dump
from rayrec.serving.cluster import connection, processes
from rayrec.serving.cluster.head import Address, use_token
from serving_load.observing import REPLICAS
from serving_load.service import ROOT, Service, on_free_port, progress, rayrec, service_of, serving

RECOVERY_TIMEOUT_S = 240.0
SECOND_ADDRESS = "127.0.0.2"  # of the loopback too, so that each node has an address of its own

# `ray start` refuses a second node where ADDRESS_VARIABLE (rayrec/serving/head.py) keeps the first one on the loopback, and would
# look for the head at the address of a network interface.
JOIN = """
from ray._private import ray_constants, services
ray_constants.ENABLE_RAY_CLUSTER = True
services.resolve_ip_for_localhost = lambda host: host
from ray.scripts.scripts import main
main()
"""


def kill_replica(service: Service, deployment: str) -> str:
    """Kill one of the deployment's replicas, and wait until there are as many as before."""
    replicas = service.replicas(deployment)
    replicas[0].kill()
    replicas[0].wait(RECOVERY_TIMEOUT_S)  # else the dead one would be counted
    started = time.monotonic()
    progress(f"a {deployment} is dead")
    await_replicas(service, deployment, len(replicas))
    return f"another one runs after {time.monotonic() - started:.0f} s"


def await_replicas(service: Service, deployment: str, count: int) -> None:
    def enough() -> bool:
        return sum(map(psutil.pid_exists, service.running(deployment))) >= count

    wait_until(enough, f"{count} replicas of {deployment}")


def await_version(service: Service, version: str) -> None:
    """Wait until the service says that it answers from this bundle."""
    wait_until(lambda: httpx.get(f"{service.url}/readyz", timeout=10).json().get("bundle") == version, f"bundle {version}")


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Raises `TimeoutError` when it does not happen."""
    deadline = time.monotonic() + RECOVERY_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, httpx.HTTPError, RuntimeError, LookupError, ValueError):
            if happened():
                return
        time.sleep(0.5)
    raise TimeoutError(f"{what}: not after {RECOVERY_TIMEOUT_S:.0f} s")


def head_killed(config: Config, name: str) -> dict[str, object]:
    """Kill a process of Ray's head under a service, and serve again. The service must be back at its port, with its events."""
    with serving(config) as service:
        page = {"user_id": "ann", "k": 1}
        shown = httpx.post(f"{service.url}/v1/recommend", json=page, timeout=30).json()["videos"]
        (process,) = (process for process in service.processes() if process.name() == name)
        process.kill()
        process.wait(RECOVERY_TIMEOUT_S)
        started = time.monotonic()
        progress(f"the {name} is dead")
        rayrec("serve", service.config)
        seconds = time.monotonic() - started
        again = httpx.post(f"{service.url}/v1/recommend", json=page, timeout=30).json()["videos"]
        after = service_of(service.config).processes
        lost = int(not shown or shown[0]["video_id"] in {video["video_id"] for video in again})  # what was shown is not shown again
    left = [process.pid for process in [*service.processes(), *after()]]
    note = f"served again {seconds:.0f} s after `rayrec serve`; processes left after `rayrec stop`: {len(left)}"
    return {"part": f"{name} killed", "other": str(left or 0), "client failed": 0, "lost": lost, "note": note}


# --- a second node --------------------------------------------------------------------------------------------------------------


class Node:
    """A second node on this machine that joins our head."""

    def __init__(self, address: Address) -> None:
        self.address, self.session = address, -1

    def start(self) -> None:
        head = next(process for process in self.address.processes() if process.name() == "gcs_server")
        options = {
            "address": self.address.gcs,
            "node-ip-address": SECOND_ADDRESS,
            "num-cpus": 2,
            "min-worker-port": 0,
            "max-worker-port": 0,
            "dashboard-agent-listen-port": processes.free_ports(1)[0],
        }
        command = [sys.executable, "-c", JOIN, "start", *(f"--{name}={value}" for name, value in options.items())]
        log = Path(self.address.folder) / "second.log"
        with log.open("w") as output:
            start = subprocess.Popen(
                command, env=head.environ(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
            self.session = start.pid
            if start.wait(RECOVERY_TIMEOUT_S):
                raise RuntimeError(f"the second node did not start: {log.read_text()[-1000:]}")

    def kill(self) -> None:
        """All of its processes at once."""
        for process in self.address.processes():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(process.pid) == self.session:
                    process.kill()


@contextlib.contextmanager
def two_nodes(config: Config) -> Iterator[tuple[Service, Node]]:
    """The service as serve_config.yaml deploys it on a cluster, with a replica of each kind on each of two nodes."""
    config = on_free_port(config)
    try:
        address = connection.start(config)
        second = Node(address)
        second.start()
        deployed = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        deployed["http_options"]["port"] = config.serving.port
        (application,) = deployed["applications"]
        application["args"] = {"config": dump(config)}
        each = {"num_replicas": 2, "max_replicas_per_node": 1}
        application["deployments"] = [{"name": name, **each} for name in REPLICAS]
        use_token()
        ServeSubmissionClient(address.dashboard).deploy_applications(deployed)
        service = service_of(config)
        for name in REPLICAS:
            await_replicas(service, name, 2)
        wait_until(lambda: httpx.get(f"{service.url}/readyz", timeout=10).is_success, "an answer")
        yield service, second
    finally:
        rayrec("stop", config)


# --- Redis ----------------------------------------------------------------------------------------------------------------------


class Redis:
    """A redis-server that writes each event to its disk before it answers."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.port = folder, processes.free_ports(1)[0]
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.process = subprocess.Popen(["redis-server", *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_until(self._answers, "Redis")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[Redis]:
    server = Redis(folder)
    try:
        yield server
    finally:
        server.kill()
