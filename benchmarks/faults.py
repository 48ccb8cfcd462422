"""What the service does when things go wrong under it, with load running all the while.

    PYTHONPATH=. python benchmarks/faults.py                          # all parts; the soak alone takes 20 minutes
    PYTHONPATH=. python benchmarks/faults.py --parts ranker swaps
    PYTHONPATH=. python benchmarks/faults.py --parts soak --minutes 20

ranker, recall: one of two replicas is killed, then the only one.  node: the second node of a cluster (with Redis) is killed, with
a replica of each kind on it, and comes back.  swaps: ten new bundles.  redis: the store is killed and started again.
head: Ray's GCS is killed, then its raylet; `rayrec serve` cleans up and starts again.
malformed: requests that are wrong in every way that schemathesis and serving_load/fuzz.py know.
soak: more load than the service can take, for minutes.
crowd: 1,000 connections that do not wait when they are told to, and 200 beside one that does.
idle: 4,096 connections that do nothing.  frozen: the only TopicRecall is stopped, but not dead.  proxy: HAProxy is killed.

The load is recommendations and batches of events; 503 and closed connections are tried again, as `rayrec.client` does it.
That client itself runs beside the load; what it raises counts as failed. At the end of each part the store must hold every event
that was acknowledged. Exits with 1 when one was lost, or an answer was none of 2xx and 503 with Retry-After.
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from figures import show
from serving_load import crowds, faulting, fuzz, world
from serving_load.client import CLOSED, HUNG, UNDOCUMENTED_503, Answers
from serving_load.observing import FAILED, REPLICAS, Watch, holds, observe
from serving_load.service import end_cleanly, progress, rayrec, serving, with_serving

from rayrec.config import Config
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace

Rows = list[dict[str, Any]]
PIECES = 10  # of the long parts, after each of which one looks at memory


def ranker(config: Config, watch: Watch, options: argparse.Namespace) -> Rows:
    return [_replica_killed(config, watch, "NeuralRanker", of) for of in (2, 1)]


def recall(config: Config, watch: Watch, options: argparse.Namespace) -> Rows:
    return [_replica_killed(config, watch, "TopicRecall", of) for of in (2, 1)]


def _replica_killed(config: Config, watch: Watch, deployment: str, of: int) -> dict[str, Any]:
    with serving(with_serving(config, recall_replicas=of, ranker_replicas=of)) as service:
        return observe(f"one of {of} {deployment} killed", service, watch, lambda: faulting.kill_replica(service, deployment))


def node(config: Config, watch: Watch, options: argparse.Namespace) -> Rows:
    with (
        faulting.redis_server(Path(config.workspace) / "redis of two nodes") as server,
        faulting.two_nodes(with_serving(config, state=server.url)) as (service, second),
    ):

        def kill_and_start() -> str:
            second.kill()
            progress("the second node is dead")
            time.sleep(watch.calm_s)
            started = time.monotonic()
            second.start()
            faulting.await_replicas(service, "NeuralRanker", 2)
            return f"started again, its ranker back after {time.monotonic() - started:.0f} s"

        return [observe("the second node killed", service, watch, kill_and_start)]


def swaps(config: Config, watch: Watch, options: argparse.Namespace) -> Rows:
    with serving(config) as service:

        def swap() -> str:
            took = []
            for number in range(options.swaps):
                manifest, _ = run_stage(Workspace(config.workspace), load_stage("publish"), service.config, force=True)
                started = time.monotonic()
                rayrec("swap", service.config)
                faulting.await_version(service, manifest.version)
                took.append(time.monotonic() - started)
                progress(f"swap {number + 1}: {took[-1]:.1f} s")
            return f"{np.median(took):.1f} s each"

        return [observe(f"{options.swaps} swaps", service, watch, swap)]


def redis(config: Config, watch: Watch, options: argparse.Namespace) -> Rows:
    with (
        faulting.redis_server(Path(config.workspace) / "redis") as server,
        serving(with_serving(config, state=server.url)) as service,
    ):

        def restart() -> str:
            server.kill()
            progress("Redis is dead")
            time.sleep(2)
            server.start()
            return "killed, and started again 2 s later"

        return [observe("Redis restarted", service, watch, restart)]


def head(config: Config, watch: Watch, options: argparse.Namespace) -> Rows:
    return [faulting.head_killed(config, name) for name in ("gcs_server", "raylet")]


def malformed(config: Config, watch: Watch, options: argparse.Namespace) -> Rows:
    statuses: Counter[int] = Counter()
    with serving(config) as service:

        def send() -> str:
            pids, memory = service.pids(*REPLICAS), []
            for piece in range(PIECES):
                found = fuzz.from_the_openapi_document(service.url, options.malformed // 10 // PIECES, piece)
                statuses.update(found)
                statuses.update(fuzz.own_requests(service.port, options.malformed // PIECES - found.total(), piece))
                memory.append(round(service.mebibytes(*REPLICAS)))
                progress(f"{statuses.total():,} malformed requests: {dict(statuses)}; {memory[-1]} MiB")
            if service.pids(*REPLICAS) != pids:
                raise RuntimeError("a replica has died")
            return f"no replica died; MiB {memory}"

        beside = observe("the load beside them", service, watch, send)
    other = {
        status: count
        for status, count in statuses.items()
        if status in (HUNG, UNDOCUMENTED_503) or status > 503 or 500 <= status < 503
    }
    refused = sum(count for status, count in statuses.items() if 400 <= status < 500)
    row = dict.fromkeys(beside, 0) | {"part": "malformed requests", "requests": statuses.total(), "other": str(other or 0)}
    row |= {"2xx": sum(count for status, count in statuses.items() if 200 <= status < 300), "503": statuses[503]}
    return [row | {"closed": statuses[CLOSED], "note": f"4xx: {refused}"}, beside]


def soak(config: Config, watch: Watch, options: argparse.Namespace) -> Rows:
    memory, marks = [], [time.monotonic()]
    with serving(config) as service:

        def wait() -> str:
            marks[0] = time.monotonic()
            for _ in range(PIECES):
                time.sleep(options.minutes * 60 / PIECES)
                marks.append(time.monotonic())
                memory.append(round(service.mebibytes(*REPLICAS)))
                progress(f"soak: {memory[-1]} MiB")
            return f"MiB {memory}"

        def summary(answers: Answers) -> str:
            parts = [answers.between(start, end) for start, end in itertools.pairwise(marks)]
            p99, rate = (
                [round(value(part)) for part in parts] for value in (lambda part: part.milliseconds(99), Answers.per_second)
            )
            return f"p99 ms {p99}; requests/s {rate}"

        saturated = Watch(watch.size, options.saturation, 0.0, watch.calm_s)
        return [observe(f"{options.minutes:g} minutes at saturation", service, saturated, wait, summary)]


def crowd(config: Config, watch: Watch, options: argparse.Namespace) -> Rows:
    with serving(config) as service:
        return [crowds.crowd(service, watch), crowds.fair_share(service, watch)]


def idle(config: Config, watch: Watch, options: argparse.Namespace) -> Rows:
    with serving(config) as service:
        return [crowds.idle_connections(service)]


def frozen(config: Config, watch: Watch, options: argparse.Namespace) -> Rows:
    with serving(config) as service:
        return [crowds.frozen_recall(service)]


def proxy(config: Config, watch: Watch, options: argparse.Namespace) -> Rows:
    with serving(config) as service:
        return [crowds.proxy_killed(service)]


PARTS: dict[str, Callable[[Config, Watch, argparse.Namespace], Rows]] = {
    each.__name__: each for each in (ranker, recall, node, head, swaps, redis, malformed, soak, crowd, idle, frozen, proxy)
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--connections", type=int, default=4, help="of the load while something goes wrong")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between an answer and the connection's next request")
    parser.add_argument("--calm", type=float, default=10, help="seconds of load before and after")
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--malformed", type=int, default=100_000, help="requests, a tenth of them from the OpenAPI document")
    parser.add_argument("--minutes", type=float, default=20, help="of the soak")
    parser.add_argument("--saturation", type=int, default=32, help="connections of the soak")
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--impressions", type=int, default=200_000)
    parser.add_argument("--topics", type=int, default=100)
    options = parser.parse_args()
    os.environ.setdefault("COLUMNS", "200")  # the table is wide
    end_cleanly()
    watch = Watch(
        world.Size(options.videos, options.users, options.impressions, options.topics),
        options.connections,
        options.pause,
        options.calm,
    )
    rows: Rows = []
    with tempfile.TemporaryDirectory(prefix="rayrec-bench-", ignore_cleanup_errors=True) as folder:
        config = world.build(Path(folder) / "world", watch.size, [])
        for name in options.parts:
            progress(f"{name} ...")
            try:
                found = PARTS[name](with_serving(config, state=f"{folder}/world/state/{name}.db"), watch, options)
            except Exception as error:
                traceback.print_exc()
                found = [{"part": name, "other": "0", "client failed": 0, "lost": 0, "note": f"{FAILED}: {error}"}]
            rows += found
            progress("\n".join(map(str, found)))
    keys = max(rows, key=len)
    show("Faults under load", [{key: row.get(key, "") for key in keys} for row in rows], connections=options.connections)
    sys.exit(0 if all(map(holds, rows)) else 1)


if __name__ == "__main__":
    main()
