"""Ranker replicas that follow the load: one, then as many as allowed, then one again, as a timeline."""

import itertools
import time
from typing import Any

from rayrec.config import Config
from serving_load.client import Load, Traffic
from serving_load.service import Service, progress, serving, with_serving
from serving_load.world import Size

FEW, MANY = 1, 48  # connections
CALM_S = 20.0  # how long a step goes on with the replicas that it should have
LOOK_S = 1.0


def timeline(config: Config, size: Size, replicas: int, patience: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each time with one load and one number of replicas; and after how many seconds of a step it had its replicas."""
    rows, reached = [], {}
    with serving(with_serving(config, ranker_replicas=1, max_ranker_replicas=replicas)) as service:
        started = time.monotonic()
        for name, connections, wanted in (("calm", FEW, 1), ("up", MANY, replicas), ("down", FEW, 1)):
            progress(f"scaling: {connections} connections, until there are {wanted} ranker replicas")
            traffic = Traffic(service.port, connections, patience + CALM_S, size.users, size.videos, retry=True)
            with Load(traffic) as load:
                begun = time.monotonic()
                changes = _changes(service, wanted, begun + patience)
                answers = load.stop()
            reached[f"seconds_{name}"] = round(changes[-2][0] - begun, 1) if changes[-2][1] == wanted else "never"
            for (at, count), (until, _) in itertools.pairwise(changes):
                part = answers.between(at, until)
                row = {
                    "from s": round(at - started),
                    "to s": round(until - started),
                    "connections": connections,
                    "ranker replicas": count,
                }
                rows.append(
                    row | {"requests/s": part.per_second(), "p99 ms": part.milliseconds(99), "errors": str(part.errors() or 0)}
                )
    return rows, reached


def _changes(service: Service, wanted: int, deadline: float) -> list[tuple[float, int]]:
    """(when, how many replicas from then on), until it was `wanted` for a while, or until the deadline; the end is the last one."""
    changes = [(time.monotonic(), len(service.running("NeuralRanker")))]
    while (now := time.monotonic()) < deadline and not (changes[-1][1] == wanted and now > changes[-1][0] + CALM_S):
        time.sleep(LOOK_S)
        if (count := len(service.running("NeuralRanker"))) != changes[-1][1]:
            progress(f"{count} ranker replicas")
            changes.append((time.monotonic(), count))
    return [*changes, (time.monotonic(), changes[-1][1])]
