"""Where recall's and the ranker's CPU time goes under load.

The system says how much each thread used, samples of its stacks (py-spy) what for. Samples alone do not tell: a thread that waits
for work or for Python's lock is often sampled as if it worked.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from rayrec.config import Config
from serving_load.client import Load, Traffic
from serving_load.service import progress, serving, spent
from serving_load.world import Size

CONNECTIONS = 8
WARM_S = 30.0  # until what is kept of videos is there
SAMPLES_PER_S = 50  # more would slow down what they look at
# A stack with a call of a torch module in it belongs to the model; any other to the first of these that its innermost frame names,
# else the next frame out, and so on.
MODEL, CALL = "the model", "/torch/nn/modules/module.py"
PARTS = {
    "batches for the model": ("rayrec/ranking/",),
    "recall": ("rayrec/recall/",),
    "store": ("rayrec/serving/state/", "/redis/"),
    "metrics": ("rayrec/serving/metrics", "/opencensus/", "/opentelemetry/", "/ray/util/metrics", "/ray/serve/metrics"),
    "HTTP": (
        "/uvicorn/",
        "/starlette/",
        "/fastapi/",
        "/pydantic/",
        "rayrec/serving/http/",
    ),
    "bundle": ("rayrec/serving/bundle",),
    "recommender": ("rayrec/serving/",),
    "Ray": ("/ray/", "/grpc/"),
}
REST = "other"
# The innermost frame of a thread that waits for work. An event loop's own C code counts as waiting too: as often as not it is.
WAITING = ("_worker (", "wait (", "Thread.run (", "Runner.run (")


def profile(config: Config, size: Size, seconds: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each part of each replica, the largest first; and what share of all that the service spends is the model."""
    with serving(config) as service, tempfile.TemporaryDirectory() as folder:
        traffic = Traffic(service.port, CONNECTIONS, WARM_S + seconds + 60, size.users, size.videos)
        with Load(traffic) as load:
            time.sleep(WARM_S)
            progress("sampling stacks")
            replicas = {name: service.replicas(name)[0].pid for name in ("TopicRecall", "NeuralRanker")}
            files = {name: Path(folder) / name for name in replicas}
            before, threads = service.cpu(), {name: _threads(pid) for name, pid in replicas.items()}
            samplers = [_sampler(replicas[name], seconds, files[name]) for name in replicas]
            for sampler in samplers:
                sampler.wait(timeout=seconds + 60)
            cpu = spent(before, service.cpu())
            used = {name: _threads(pid) - threads[name] for name, pid in replicas.items()}
            answers = load.stop()
        parts = {name: parts_of(files[name].read_text(), used[name]) for name in replicas}
    rows, total = [], sum(seconds for _, seconds in cpu.values())
    for name, found in parts.items():
        for part, spent_on in found.most_common():
            rows.append(
                {"process": name, "part": part, "of its CPU time": spent_on / found.total(), "of the service's": spent_on / total}
            )
    model = sum(found[MODEL] for found in parts.values())
    for pid, (name, spent_by) in sorted(cpu.items(), key=lambda item: -item[1][1]):
        if pid not in replicas.values() and spent_by > 0.005 * total:
            rows.append({"process": name, "part": "", "of its CPU time": 1.0, "of the service's": spent_by / total})
    of_replicas = model / sum(found.total() for found in parts.values())
    facts = {"model_of_replicas": round(of_replicas, 3), "model_of_service": round(model / total, 3), "connections": CONNECTIONS}
    return rows, {**facts, "requests_per_s": round(answers.per_second(), 1), "errors": answers.errors()}


def _sampler(pid: int, seconds: float, file: Path) -> subprocess.Popen[bytes]:
    """Samples the threads of a process."""
    options = {"--pid": pid, "--duration": max(round(seconds), 1), "--rate": SAMPLES_PER_S, "--format": "raw", "--output": file}
    py_spy = str(Path(sys.executable).with_name("py-spy"))  # of this environment, whether it is activated or not
    command = [py_spy, "record", "--threads", "--full-filenames", *(str(word) for option in options.items() for word in option)]
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    except FileNotFoundError:
        raise SystemExit("profile needs py-spy: pip install py-spy") from None


def parts_of(stacks: str, used: Counter[int]) -> Counter[str]:
    """CPU seconds by part, from the seconds of each thread and from lines of `thread (ID): ...;outermost;...;innermost count`.

    A thread's seconds go to the parts of its samples; those of a thread without any, which runs no Python, to Ray.
    """
    samples: dict[int, Counter[str]] = {}
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if (number := re.match(r"thread \((\d+)\)", thread)) and frames and not frames[-1].startswith(WAITING):
            samples.setdefault(int(number[1]), Counter())[_part(frames)] += int(count)
    seconds: Counter[str] = Counter()
    for thread_id, spent_by in used.items():
        counts = samples.get(thread_id, Counter(Ray=1))
        for part, count in counts.items():
            seconds[part] += spent_by * count / counts.total()
    return seconds


def _threads(pid: int) -> Counter[int]:
    """The CPU seconds of each thread so far."""
    return Counter({thread.id: thread.user_time + thread.system_time for thread in psutil.Process(pid).threads()})


def _part(frames: list[str]) -> str:
    if any(CALL in frame for frame in frames):
        return MODEL
    for frame in reversed(frames):
        for part, places in PARTS.items():
            if any(place in frame for place in places):
                return part
    return REST
