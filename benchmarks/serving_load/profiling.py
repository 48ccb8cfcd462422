"""Where recall's and the ranker's CPU time goes under load, from samples of their stacks (py-spy)."""

import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rayrec.config import Config
from serving_load.client import Load, Traffic
from serving_load.service import progress, serving, spent
from serving_load.world import Size

CONNECTIONS = 8
WARM_S = 5.0
SAMPLES_PER_S = 100
# A stack belongs to the first of these that its innermost frame names, else the next frame out, and so on.
PARTS = {
    "the model": ("/torch/", "rayrec/ranking/models/", "rayrec/ranking/layers", "rayrec/ranking/model.py"),
    "batches for the model": ("rayrec/ranking/",),
    "recall": ("rayrec/recall/",),
    "store": ("rayrec/serving/store", "rayrec/serving/sqlite_store", "rayrec/serving/redis_store", "/redis/"),
    "metrics": ("rayrec/serving/metrics", "/opencensus/", "/opentelemetry/", "/ray/util/metrics", "/ray/serve/metrics"),
    "HTTP": (
        "/uvicorn/",
        "/starlette/",
        "/fastapi/",
        "/pydantic/",
        "rayrec/serving/guard",
        "rayrec/serving/api",
        "rayrec/serving/messages",
    ),
    "bundle": ("rayrec/serving/bundle",),
    "recommender": ("rayrec/serving/",),
    "Ray": ("/ray/", "/grpc/"),
}
REST = "event loop and other"


def profile(config: Config, size: Size, seconds: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each part of each replica, the largest first; and what share of all that the service spends is the model."""
    with serving(config) as service, tempfile.TemporaryDirectory() as folder:
        traffic = Traffic(service.port, CONNECTIONS, WARM_S + seconds + 60, size.users, size.videos)
        with Load(traffic) as load:
            time.sleep(WARM_S)
            progress("sampling stacks")
            replicas = {name: service.replicas(name)[0].pid for name in ("TopicRecall", "NeuralRanker")}
            files = {name: Path(folder) / name for name in replicas}
            before = service.cpu()
            samplers = [_sampler(replicas[name], seconds, files[name]) for name in replicas]
            for sampler in samplers:
                sampler.wait(timeout=seconds + 60)
            cpu = spent(before, service.cpu())
            answers = load.stop()
        samples = {name: parts_of(file.read_text()) for name, file in files.items()}
    rows, total, model = [], sum(used for _, used in cpu.values()), 0.0
    for name, counts in samples.items():
        used = cpu[replicas[name]][1]
        for part, count in counts.most_common():
            share = count / counts.total()
            model += share * used if part == "the model" else 0.0
            rows.append({"process": name, "part": part, "of its CPU time": share, "of the service's": share * used / total})
    for pid, (name, used) in sorted(cpu.items(), key=lambda item: -item[1][1]):
        if pid not in replicas.values() and used > 0.005 * total:
            rows.append({"process": name, "part": "", "of its CPU time": 1.0, "of the service's": used / total})
    of_replicas = model / sum(cpu[pid][1] for pid in replicas.values())
    facts = {"model_of_replicas": round(of_replicas, 3), "model_of_service": round(model / total, 3), "connections": CONNECTIONS}
    return rows, {**facts, "requests_per_s": round(answers.per_second(), 1), "errors": answers.errors()}


def _sampler(pid: int, seconds: float, file: Path) -> subprocess.Popen[bytes]:
    """Samples the threads of a process that are on a CPU."""
    options = {"--pid": pid, "--duration": max(round(seconds), 1), "--rate": SAMPLES_PER_S, "--format": "raw", "--output": file}
    command = ["py-spy", "record", "--full-filenames", *(str(word) for option in options.items() for word in option)]
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    except FileNotFoundError:
        raise SystemExit("profile needs py-spy: pip install py-spy") from None


def parts_of(stacks: str) -> Counter[str]:
    """Samples by part, from lines of `outermost;...;innermost count`."""
    counts: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        counts[_part(stack.split(";"))] += int(count)
    return counts


def _part(frames: list[str]) -> str:
    for frame in reversed(frames):
        for part, places in PARTS.items():
            if any(place in frame for place in places):
                return part
    return REST
