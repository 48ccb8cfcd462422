"""A canary that decides on a running service: the command in a process of its own, and people who come meanwhile."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np

from rayrec.config import Config
from rayrec.evaluation.experiments.power import users_needed
from rayrec.evaluation.experiments.sequential import Mixture
from rayrec.serving.bundle import load_scorer
from rayrec.serving.recommender import Recommender
from rayrec.serving.rollout.arms import CANARY, STABLE, Arms
from rayrec.workspace.versions import Workspace
from tests.serving.cluster.broken_bundles import folder_of

ROOT = Path(__file__).parents[3]
K = 4  # videos of a page
SHARE = 0.5
PLANNED = 600  # users
LIKED, OTHERS = 0.5, 0.3  # how often people click a video that they like, and one that they don't
LIMIT_S = 180  # of a trial, also on a busy machine

TRIAL = """
import sys, time, types
from rayrec.config import load
from rayrec.serving.cluster import swaps

def sleep(seconds):
    print("looked", flush=True)
    time.sleep(0.5)

version, share, users, *settings = sys.argv[1:]
config = load(None, settings)
swaps.swap(config, version, float(share))
swaps.time = types.SimpleNamespace(sleep=sleep)
swaps.decide(config, int(users), lambda reason: print(reason, flush=True))
"""


class Trial:
    """`rayrec swap --decide` that is at work. `reason` is what it says in the end."""

    def __init__(self, config: Config, version: str) -> None:
        settings = [f"workspace={config.workspace}", f"serving.port={config.serving.port}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", TRIAL, version, str(SHARE), str(PLANNED), *settings],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._limit = threading.Timer(LIMIT_S, self._process.kill)
        self._limit.start()
        assert self._process.stdout is not None
        self.began = self._process.stdout.readline() == "looked\n"

    def reason(self) -> str:
        """Waits for the end, and returns the sentence; an empty one if none came in time."""
        said, problem = self._process.communicate()
        self._limit.cancel()
        assert self._process.returncode == 0, problem
        return [line for line in said.splitlines() if line != "looked"][-1]


class People:
    """Each comes for a page, clicks what he likes more often than the rest, and watches what he clicks."""

    def __init__(self, service: httpx.Client, config: Config, version: str, seed: int) -> None:
        """They like those videos that the ranker of a bundle ranks in the upper half for people whom it does not know."""
        scorer = load_scorer(Workspace(config.workspace).fs, str(folder_of(config, version)))
        items = np.arange(1, len(scorer.item_ids), dtype=np.int32)
        nothing = np.zeros(0, np.int32)
        [scores] = scorer.score([""], [nothing], [nothing.astype(np.int64)], np.array([10**12]), items[None], [{}])
        self.liked = {scorer.item_ids[item] for item in items[np.argsort(-scores)][: len(items) // 2]}
        self.service, self.rng, self.statuses = service, np.random.default_rng(seed), set[int]()
        self.seen: list[str] = []

    def come(self, user: str) -> dict[str, Any]:
        """The answer that a person gets, who then does something."""
        answer = self._post("/v1/recommend", {"user_id": user, "k": K})
        clicked = [
            video["video_id"]
            for video in answer["videos"]
            if self.rng.random() < (LIKED if video["video_id"] in self.liked else OTHERS)
        ]
        about = {"user_id": user, "request_id": answer["request_id"]}
        events = [{"event_id": f"{user} c{video}", "video_id": video, "kind": "click"} | about for video in clicked]
        watched = [
            {"event_id": f"{user} w{video}", "video_id": video, "kind": "watch", "watch_s": float(self.rng.gamma(4, 2))} | about
            for video in clicked
        ]
        if clicked:
            self._post("/v1/events", {"events": events + watched})
        self.seen.append(user)
        return answer

    @contextmanager
    def load(self) -> Iterator[None]:
        """Those who were there ask for more all the time, and do nothing with it."""
        done = threading.Event()

        def ask() -> None:
            while not done.wait(0.02):
                for user in self.seen[-3:]:
                    self._post("/v1/recommend", {"user_id": user, "k": 1})

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            yield
        finally:
            done.set()
            asking.join()

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.service.post(path, json=body)
        self.statuses.add(answer.status_code)
        return answer.json()


def people_needed() -> int:
    """How many of `People` the test of a canary needs whose pages hold what they don't like, where the others hold what they like.

    One run of ten thousand needs more. A page's clicks are binomial, so that the squared error of a mean's logarithm is
    (1 - p) / (K p) for one user.
    """
    deviation = sum((1 - rate) / (K * rate) / share for rate, share in ((LIKED, 1 - SHARE), (OTHERS, SHARE))) ** 0.5
    mixture = Mixture.for_users(PLANNED)
    return round(users_needed(OTHERS / LIKED - 1, deviation, lambda users: float(mixture.radius(users)), wanted=0.9999))


def readers(version: str, count: int) -> list[str]:
    """People of whom every second one has a canary of this version, so that chance has no part in who they are."""
    stable, canary = (cast(Recommender, SimpleNamespace(bundle=SimpleNamespace(version=name))) for name in ("", version))
    arms, names = Arms(stable, canary, SHARE), (f"reader {number}" for number in range(20 * count))
    found: dict[str, list[str]] = {STABLE: [], CANARY: []}
    for name in names:
        found[arms.arm_of(name)[0]].append(name)
    return [name for pair in zip(found[STABLE], found[CANARY], strict=False) for name in pair][:count]


def is_canary(answer: dict[str, Any]) -> bool:
    return answer["arm"] == CANARY
