"""The service as an operator has it: `rayrec` commands, and its processes seen from outside.

with serving(config) as service: ...        # through `rayrec serve`, ended with `rayrec stop`
with bare(config) as service: ...           # the same pipeline in one uvicorn process without Ray
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from rayrec.config import Config
from rayrec.serving.cluster import connection, processes, service

COMMAND_TIMEOUT_S = 400
BARE_TIMEOUT_S = 60
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Service:
    config: Config
    processes: Callable[[], list[psutil.Process]]  # all that belong to it and live

    @property
    def port(self) -> int:
        return self.config.serving.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Those of `NeuralRanker` or `TopicRecall`."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if "ServeReplica" in (name := process.name()) and deployment in name:
                    found.append(process)
        return found

    def cpu(self) -> dict[int, tuple[str, float]]:
        """pid -> name and CPU seconds of each process so far."""
        found = {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                found[process.pid] = process.name(), times.user + times.system
        return found

    def running(self, deployment: str) -> list[int]:
        """The processes of the replicas that, as Serve says, take requests. One that has died may be among them for a moment."""
        replicas = service.details(self.config)["deployments"][deployment]["replicas"]
        return [replica["pid"] for replica in replicas if replica["state"] == "RUNNING"]

    def pids(self, *deployments: str) -> set[int]:
        return {replica.pid for deployment in deployments for replica in self.replicas(deployment)}

    def mebibytes(self, *deployments: str) -> float:
        """The resident memory of the deployments' replicas, MiB; of all processes when none is named."""
        total = 0
        for process in [each for name in deployments for each in self.replicas(name)] if deployments else self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total / 2**20


def spent(before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]]) -> dict[int, tuple[str, float]]:
    """CPU seconds between two looks, by pid."""
    return {pid: (name, seconds - before.get(pid, (name, 0.0))[1]) for pid, (name, seconds) in after.items()}


@contextlib.contextmanager
def serving(config: Config) -> Iterator[Service]:
    config = on_free_port(config)
    try:
        rayrec("serve", config)
        yield service_of(config)
    finally:
        rayrec("stop", config)


def service_of(config: Config) -> Service:
    """The one that runs on our head."""
    address = connection.running(config)
    if address is None:
        raise RuntimeError("the head is gone")
    return Service(config, address.processes)


@contextlib.contextmanager
def bare(config: Config) -> Iterator[Service]:
    config = on_free_port(config)
    # One thread for torch, as Ray gives a replica with one CPU.
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("bare.py")
    process = subprocess.Popen([sys.executable, str(script), str(_config_file(config))], env=variables)
    try:
        _await(f"http://127.0.0.1:{config.serving.port}/readyz", process)
        yield Service(config, lambda: [psutil.Process(process.pid)])
    finally:
        process.kill()
        process.wait()


def rayrec(command: str, config: Config, *options: str) -> str:
    """Run a `rayrec` command and return what it printed. Raises `RuntimeError` when it fails."""
    code = "from rayrec.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command.split(), str(_config_file(config)), *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that what ends this process's group leaves it the time to clean up
    )
    try:
        printed, problems = process.communicate(timeout=COMMAND_TIMEOUT_S)
    except BaseException:
        process.send_signal(signal.SIGINT)  # not killed: `rayrec serve` ends a head that has only half started
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=60)
        process.kill()
        raise
    if process.returncode:
        raise RuntimeError(f"rayrec {command} failed: {printed[-500:]}{problems[-2000:]}")
    return printed


def end_cleanly() -> None:
    """On SIGTERM, end what was started before this process ends. `timeout` sends it twice."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit("ended by SIGTERM")

    signal.signal(signal.SIGTERM, end)


def on_free_port(config: Config) -> Config:
    return with_serving(config, port=processes.free_ports(1)[0])


def with_serving(config: Config, **values: object) -> Config:
    return config.model_copy(update={"serving": config.serving.model_copy(update=values)})


def with_candidates(config: Config, candidates: int) -> Config:
    return config.model_copy(update={"recall": config.recall.model_copy(update={"candidates": candidates})})


def progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _config_file(config: Config) -> Path:
    """The config as a file beside the workspace; JSON is YAML."""
    path = Path(config.workspace).with_suffix(".yaml")
    path.write_text(config.model_dump_json())
    return path


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + BARE_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).is_success:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer")
