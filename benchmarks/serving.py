"""How fast the service is: beside the same pipeline in one uvicorn process without Ray, and with more load than one ranker takes.

    PYTHONPATH=. python benchmarks/serving.py                       # all parts, both rankers
    PYTHONPATH=. python benchmarks/serving.py --parts speed --models wide_deep --candidates 600
    PYTHONPATH=. python benchmarks/serving.py --parts profile --models din

speed: a closed-loop client in another process asks the service (`rayrec serve`: HAProxy, a recall replica, a ranker replica) and
the bare process, never both at once, each warm and on an empty events file. CPU is that of all processes of the service.
scaling: ranker replicas from one to --replicas and back under a load in steps.
profile: where recall's and the ranker's CPU time goes (needs py-spy, and to be allowed to look: root, or CAP_SYS_PTRACE).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import median_of, show
from serving_load import client, profiling, scaling, world
from serving_load.client import Answers, Traffic
from serving_load.service import Service, bare, end_cleanly, progress, serving, spent, with_candidates, with_serving

from rayrec.config import Config

MODELS = {"wide_deep": [], "din": ["ranker.history_length=50"]}


def measure(service: Service, traffic: Traffic) -> dict[str, Any]:
    before = service.cpu()
    answers = client.run(traffic)
    cpu = sum(seconds for _, seconds in spent(before, service.cpu()).values())
    return figures(answers, cpu)


def figures(answers: Answers, cpu: float) -> dict[str, Any]:
    return {
        "requests/s": answers.per_second(),
        "p50 ms": answers.milliseconds(50),
        "p95 ms": answers.milliseconds(95),
        "p99 ms": answers.milliseconds(99),
        "errors": sum(answers.errors().values()),
        "CPU ms a request": 1000 * cpu / max(len(answers.at), 1),
        "client's CPU": answers.cpu / answers.elapsed,
    }


def speed(config: Config, model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each kind of service, number of candidates and number of connections."""
    rows = []
    for candidates in options.candidates:
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for kind, start in (("bare", bare), ("rayrec", serving)):
            state = Path(config.workspace) / "state" / f"{kind}-{candidates}.db"
            progress(f"{model}, {candidates} candidates, {kind}")
            with start(with_serving(with_candidates(config, candidates), state=str(state))) as service:
                client.run(Traffic(service.port, max(options.connections), options.warm, options.users, options.videos))
                for connections in options.connections:
                    plan = Traffic(service.port, connections, options.seconds, options.users, options.videos)
                    runs = [measure(service, plan) for _ in range(options.rounds)]
                    found[kind, connections] = {name: median_of([run[name] for run in runs]) for name in runs[0]}
        for (kind, connections), row in found.items():
            beside = found["bare", connections]
            ratios = {
                "of bare requests/s": row["requests/s"] / beside["requests/s"],
                "of bare p99": row["p99 ms"] / beside["p99 ms"],
            }
            rows.append({"model": model, "candidates": candidates, "connections": connections, "service": kind, **row, **ratios})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="+", default=["speed", "scaling", "profile"], choices=["speed", "scaling", "profile"])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--candidates", nargs="+", type=int, default=[25, 100, 300, 600])
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=10, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of which the median is given")
    parser.add_argument("--warm", type=float, default=30, help="seconds of load before the first measurement")
    parser.add_argument("--replicas", type=int, default=3, help="of the ranker, in scaling")
    parser.add_argument("--patience", type=float, default=900, help="seconds that scaling waits for a replica to come or go")
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--impressions", type=int, default=400_000)
    parser.add_argument("--topics", type=int, default=100)
    options = parser.parse_args()
    os.environ.setdefault("COLUMNS", "200")  # the tables are wide
    end_cleanly()
    size = world.Size(options.videos, options.users, options.impressions, options.topics)
    facts = {name: getattr(options, name) for name in ("videos", "users", "impressions", "seconds", "rounds")}
    with tempfile.TemporaryDirectory(prefix="rayrec-bench-", ignore_cleanup_errors=True) as folder:
        worlds = {}
        for model in options.models:
            progress(f"{model}: {size}")
            started = time.monotonic()
            worlds[model] = world.build(Path(folder) / model, size, [f"ranker.model={model}", *MODELS[model]])
            progress(f"{model}: built in {time.monotonic() - started:.0f} s")
        if "speed" in options.parts:
            show("Serving beside one bare process", [row for each in worlds for row in speed(worlds[each], each, options)], **facts)
        for model, config in worlds.items():
            if "profile" in options.parts:
                rows, shares = profiling.profile(config, size, options.seconds)
                show(f"Where the CPU time goes: {model}", rows, **shares, **facts)
        if "scaling" in options.parts:
            model = options.models[-1]
            rows, took = scaling.timeline(worlds[model], size, options.replicas, options.patience)
            show(f"Ranker replicas under a load in steps: {model}", rows, **took, **facts)


if __name__ == "__main__":
    main()
