"""A service watched from outside while something happens to it: what its callers got, and what its store kept."""

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayrec.client import Client
from rayrec.config import Config
from rayrec.serving.state.opening import open_store
from serving_load.client import Answers, Load, Traffic, event_id
from serving_load.service import Service
from serving_load.world import Size

REPLICAS = ("TopicRecall", "NeuralRanker")
SEED = 1
FAILED = "FAILED"


@dataclass(frozen=True)
class Watch:
    """How much load there is, and how long before and after what happens."""

    size: Size
    connections: int
    pause_s: float  # of a connection between an answer and its next request
    calm_s: float


class Person:
    """Calls `rayrec.client` for one user after the other: a page, and a click on what is first in it."""

    def __init__(self, url: str, users: int) -> None:
        self.url, self.users, self.failures = url, users, list[str]()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> "Person":
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._done.set()
        self._thread.join(timeout=60)

    def _live(self) -> None:
        with Client(self.url) as client:
            for number in itertools.count():
                if self._done.wait(0.1):
                    return
                user = {"user_id": f"u{number % self.users}"}
                try:
                    if shown := client.recommend(**user, k=5)["videos"]:
                        client.events([user | {"video_id": shown[0]["video_id"], "kind": "click"}])
                except Exception as error:
                    self.failures.append(repr(error))


def observe(
    name: str, service: Service, watch: Watch, happen: Callable[[], str], look: Callable[[Answers], str] = lambda answers: ""
) -> dict[str, Any]:
    """A row: the load before, during and after `happen`, which returns what is to say of it, as does `look` of the answers."""
    traffic = Traffic(
        port=service.port,
        connections=watch.connections,
        seconds=86_400,
        users=watch.size.users,
        videos=watch.size.videos,
        events=5,
        pause_s=watch.pause_s,
        apart=True,
        retry=True,
        seed=SEED,
    )
    with Load(traffic) as load, Person(service.url, watch.size.users) as person:
        time.sleep(watch.calm_s)
        before = service.mebibytes(*REPLICAS)
        try:
            note = happen()
        except (RuntimeError, TimeoutError) as error:
            note = f"{FAILED}: {error}"
        time.sleep(watch.calm_s)
        after = service.mebibytes(*REPLICAS)
        answers = load.stop()
    errors = answers.errors()
    busy, closed = errors.pop("503", 0), errors.pop("closed", 0)
    return {
        "part": name,
        "requests": len(answers.at),
        "2xx": int(answers.good.sum()),
        "503": busy,
        "closed": closed,
        "other": str(errors or 0),
        "client failed": len(person.failures),
        "events": len(answers.acknowledged),
        "lost": lost(service.config, answers.acknowledged),
        "longest gap s": answers.longest_gap(),
        "p99 ms": answers.milliseconds(99),
        "MiB before": round(before),
        "MiB after": round(after),
        "note": "; ".join(filter(None, [note, look(answers), *person.failures[:1]])),
    }


def holds(row: dict[str, Any]) -> bool:
    """Whether what the service promises was kept: nothing lost, no answer but 2xx and a 503 that says when to come back."""
    return row["other"] == "0" and not row["client failed"] and not row["lost"] and FAILED not in row["note"]


def lost(config: Config, acknowledged: np.ndarray) -> int:
    """How many acknowledged events the store does not hold."""
    store, prefix = open_store(config), event_id(SEED, 0)[:-1]
    try:
        kept = [
            np.array(
                [int(each.removeprefix(prefix)) for each in piece["event_id"].to_pylist() if each.startswith(prefix)], np.int64
            )
            for piece in store.read(0, None)
        ]
    finally:
        store.close()
    return int((~np.isin(acknowledged, np.concatenate([np.zeros(0, np.int64), *kept]))).sum())
