"""A Ray cluster on virtual hosts: its nodes start as cluster.yaml says, jobs are submitted and the service is deployed on its head.

The head has no CPUs for work. Beside the hosts, at the address of this process on their network, a server holds the workspace's
bucket, and a Redis the events.
"""

import json
import re
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from types import MappingProxyType
from typing import Any

import httpx
import yaml

from tests.fixtures.s3 import KEYS, S3, s3_server
from tests.serving.stores import redis_server
from tests.virtual_hosts import VirtualHosts

ROOT = Path(__file__).parents[1]
HEAD = "head"
DASHBOARD = "http://127.0.0.1:8265"
PORT = 8000  # of the service
ENVIRONMENT = ". ~/.rayrec_environment"
TIMEOUT_S = 400.0
# All hosts share one machine: none can judge its memory, workers (nice 15) would wait for everything else, and all is slower.
ONE_MACHINE = {
    "RAY_worker_niceness": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_USAGE_STATS_ENABLED": "0",
}
NOTHING_MORE: Mapping[str, str] = MappingProxyType({})
OBJECT_STORE = 200_000_000  # bytes on each host


@dataclass
class Job:
    """A script of jobs/ that was submitted and runs."""

    script: str
    process: "Popen[str]"
    log: Path

    def output(self) -> str:
        return self.log.read_text()

    def end(self) -> str:
        """Waits until the job has ended well, and returns its output. Raises `RuntimeError` if it fails or takes too long."""
        wait_until(lambda: self.process.poll() is not None, f"the end of {self.script}: {self.output()}")
        if self.process.returncode:
            raise RuntimeError(f"{self.script} failed: {self.output()}")
        return self.output()


class VirtualCluster:
    """A head, and workers with so many CPUs each; its workspace is in the bucket. `environment` adds to that of cluster.yaml."""

    def __init__(
        self, hosts: VirtualHosts, s3: S3, redis: str, folder: Path, cpus: int = 1, environment: Mapping[str, str] = NOTHING_MORE
    ) -> None:
        self.hosts, self.s3, self.redis, self.folder, self.cpus, self.environment = hosts, s3, redis, folder, cpus, environment
        self.workspace = s3.uri(f"{s3.bucket()}/space")
        self.workers = [name for name in hosts.addresses if name != HEAD]
        self.api_key, self._token = secrets.token_hex(16), secrets.token_hex(32)
        self._past = 0  # requests to the bucket that are not looked at any more
        self._file = yaml.safe_load((ROOT / "cluster.yaml").read_text())

    # --- nodes ---

    def start(self) -> None:
        """Raises `RuntimeError` if a node does not start."""
        for host in self.hosts.addresses:
            self._prepare(host)
        self._start_ray(HEAD, "head_start_ray_commands", 0)
        with ThreadPoolExecutor() as threads:
            list(threads.map(self.start_worker, self.workers))
        self.await_workers(*self.workers)

    def start_worker(self, host: str) -> None:
        """Starts Ray on a worker, or starts it again: what is left there of its time before it was cut off is ended first."""
        self._start_ray(host, "worker_start_ray_commands", self.cpus)

    def cut(self, host: str) -> None:
        """Cuts a worker off, and waits until the head counts it as lost."""
        self.hosts.cut(host)
        self.await_workers(*(each for each in self.workers if each != host))

    def join(self, host: str) -> None:
        """Connects the worker that was cut off, and starts it again."""
        self.hosts.join(host)
        self.start_worker(host)
        self.await_workers(*self.workers)

    def await_workers(self, *wanted: str) -> None:
        """Waits until these workers are alive for the head, and no others."""
        addresses = {self.hosts.addresses[host] for host in wanted}
        wait_until(lambda: self.alive() == addresses, f"that {' and '.join(wanted)} are the live workers")

    def alive(self) -> set[str]:
        """The addresses of the live workers, as the head says."""
        nodes = self._asked("/nodes?view=summary")["data"]["summary"]
        live = {node["raylet"]["nodeManagerAddress"] for node in nodes if node["raylet"]["state"] == "ALIVE"}
        return live - {self.hosts.addresses[HEAD]}

    def run(self, host: str, command: str) -> str:
        return self.hosts.run(host, f"{ENVIRONMENT}; {command}", TIMEOUT_S)

    # --- work ---

    def submit(self, script: str, config: Mapping[str, Any], *overrides: str) -> Job:
        """Submits a script of jobs/ with a config."""
        content = {"workspace": self.workspace, **config}
        path = f"/home/{HEAD}/{script}.yaml"
        self.hosts.write(HEAD, path, yaml.safe_dump(content))
        submit = f"ray job submit --address {DASHBOARD} --working-dir . --runtime-env jobs/runtime_env.yaml"
        words = shlex.join(["python", f"jobs/{script}.py", path, *overrides])
        log = self.folder / f"{script}-{time.monotonic_ns()}.log"
        with log.open("w") as file:
            return Job(script, self.hosts.popen(HEAD, f"{ENVIRONMENT}; cd ~/rayrec; {submit} -- {words}", file), log)

    def forget(self) -> None:
        """Has `stored` and `media_read` tell only what happens from now on."""
        self._past = len(self.s3.requests())

    def stored(self, name: str) -> bool:
        """Whether an object whose name ends so has been written to the bucket."""
        return any(request.startswith(("PUT ", "POST ")) and request.endswith(name) for request in self._requests())

    def media_read(self) -> set[str]:
        """The videos that were read from the bucket."""
        return {request for request in self._requests() if request.startswith("GET ") and request.endswith(".mp4")}

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Deploys serve_config.yaml with what its comments advise for a cluster, a replica of each kind on each worker."""
        deployed = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        deployed["proxy_location"] = "EveryNode"
        deployed["http_options"]["host"] = "0.0.0.0"
        (application,) = deployed["applications"]
        serving = {"state": self.redis, "recall_replicas": 2, "ranker_replicas": 2, "host": "0.0.0.0"}
        application["args"] = {"workspace": self.workspace, "config": {**config, "serving": serving}}
        # Both fit on a worker with one CPU.
        each = {"max_replicas_per_node": 1, "ray_actor_options": {"num_cpus": 0.5}}
        application["deployments"] = [{"name": name, **each} for name in ("TopicRecall", "NeuralRanker")]
        self.hosts.write(HEAD, f"/home/{HEAD}/serve.yaml", yaml.safe_dump(deployed))
        self.run(HEAD, f"serve deploy --address {DASHBOARD} ~/serve.yaml")

    def client(self, host: str) -> httpx.Client:
        """Asks the service through the HAProxy of a host."""
        headers = {"Authorization": f"Bearer {self.api_key}"}
        return httpx.Client(base_url=f"http://{self.hosts.addresses[host]}:{PORT}", headers=headers, timeout=30, trust_env=False)

    def await_service(self, *through: str) -> None:
        """Waits until the service answers through these hosts."""
        for host in through:
            with self.client(host) as client:
                wait_until(lambda client=client: _ready(client), f"the service on {host}")

    # --- how it is done ---

    def _requests(self) -> list[str]:
        return self.s3.requests()[self._past :]

    def _asked(self, path: str) -> Any:
        """What the head's dashboard, which listens on the loopback there, answers."""
        return json.loads(self.hosts.run(HEAD, f"curl -sf -H 'Authorization: Bearer {self._token}' {DASHBOARD}{path}"))

    def _prepare(self, host: str) -> None:
        """Does what `ray up` would do before it starts Ray: files, and setup commands."""
        self.hosts.write(host, f"/home/{host}/.ray/auth_token", self._token)
        self.hosts.write(host, f"/home/{host}/.rayrec_api_keys", self.api_key)
        setup = [line for line in self._file["setup_commands"] if "> ~/.rayrec_environment" in line and "activate" not in line]
        more = {**KEYS, **ONE_MACHINE, "PYTHONPATH": str(ROOT), "RAY_HEAD_IP": self.hosts.addresses[HEAD], **self.environment}
        own = [f"echo 'export {name}={shlex.quote(value)}' >> ~/.rayrec_environment" for name, value in more.items()]
        self.hosts.run(host, "\n".join(["set -e", f"ln -s {ROOT} ~/rayrec", *setup, *own]))

    def _start_ray(self, host: str, commands: str, cpus: int) -> None:
        stop, start = self._file[commands]
        start = re.sub(r" --autoscaling-config=\S+", "", start)  # `ray up` would have written that file
        command = f"{stop}; {start} --num-cpus={cpus} --object-store-memory={OBJECT_STORE}"
        for last in (False, False, True):
            try:
                self.run(host, command)
                return
            except RuntimeError as error:
                # Ray gives a node 30 s to start, which is not enough on a busy machine.
                if last or "timed out during startup" not in str(error):
                    raise


def wait_until(happened: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Raises `TimeoutError` if it does not happen."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.3)


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").is_success
    except httpx.HTTPError:
        return False


@contextmanager
def virtual_cluster(
    folder: Path, cores: Mapping[str, int] | None = None, cpus: int = 1, environment: Mapping[str, str] = NOTHING_MORE
) -> Iterator[VirtualCluster]:
    """A cluster of a head and two workers, `one` and `two`, of so many CPUs, until the block ends. Its logs go to a folder."""
    durable = ("--appendonly", "yes", "--appendfsync", "always", "--protected-mode", "no")
    with (
        VirtualHosts([HEAD, "one", "two"], [ROOT, Path(sys.prefix)], cores) as hosts,
        s3_server(folder / "s3.log", hosts.outside) as s3,
        redis_server(folder / "redis", *durable, host=hosts.outside) as redis,
    ):
        cluster = VirtualCluster(hosts, s3, redis.url, folder, cpus, environment)
        cluster.start()
        yield cluster
