"""What every script of lists shares: the pairs, the clock, early stopping, and the one JSON line that comes out.

A script runs in its library's own environment, as `python SCRIPT pairs.npz SETTINGS`. It leaves the 20 best items of each user that
the user did not click in training in `lists.npy` beside the pairs.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

K = 20
USERS_AT_ONCE = 1024
Scores = Callable[[np.ndarray], np.ndarray]  # of all items, for some users


@dataclass(frozen=True)
class Settings:
    model: str
    epochs: int
    patience: int
    threads: int
    seed: int
    size: int = 64


@dataclass(frozen=True)
class Data:
    """Users and items count from 0; each part is a matrix [U, I] of zeros and ones."""

    path: Path
    train: sparse.csr_matrix
    validation: sparse.csr_matrix
    vectors: dict[str, np.ndarray]

    @property
    def pairs(self) -> dict[str, np.ndarray]:
        return {part: np.stack(getattr(self, part).nonzero(), axis=1) for part in ("train", "validation")}

    def lists(self, scores: Scores) -> np.ndarray:
        """The best items of every user: int64 [U, 20]."""
        found = []
        for start in range(0, self.train.shape[0], USERS_AT_ONCE):
            users = np.arange(start, min(start + USERS_AT_ONCE, self.train.shape[0]))
            values = np.array(scores(users), dtype=np.float32)
            values[self.train[users].nonzero()] = -np.inf
            best = np.argpartition(-values, K, axis=1)[:, :K]
            order = np.argsort(-np.take_along_axis(values, best, axis=1), axis=1, kind="stable")
            found.append(np.take_along_axis(best, order, axis=1))
        return np.concatenate(found)

    def ndcg(self, lists: np.ndarray) -> float:
        """NDCG@20 on validation."""
        relevant = np.asarray(self.validation.sum(axis=1)).ravel().astype(int)
        gain = 1 / np.log2(np.arange(2, K + 2))
        hits = np.stack([np.asarray(self.validation[np.arange(len(lists)), lists[:, place]]).ravel() for place in range(K)], axis=1)
        some = relevant > 0
        return float(((hits @ gain)[some] / gain.cumsum()[np.minimum(relevant[some], K) - 1]).mean())


@dataclass
class Clock:
    """Seconds of training, of all threads together too."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def time(self, work: Callable[[], object]) -> None:
        started, cpu = time.perf_counter(), time.process_time()
        work()
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu


def begin() -> tuple[Data, Settings]:
    """The script's arguments."""
    stored = np.load(sys.argv[1])
    parts = ("train", "validation", "test")
    shape = tuple(int(max(stored[part][:, column].max() for part in parts)) + 1 for column in (0, 1))
    train, validation = (
        sparse.csr_matrix((np.ones(len(stored[part]), np.float32), tuple(stored[part].T)), shape=shape)
        for part in ("train", "validation")
    )
    vectors = {name.split(".")[1]: stored[name] for name in stored.files if name.startswith("vectors.")}
    return Data(Path(sys.argv[1]), train, validation, vectors), Settings(**json.loads(sys.argv[2]))


def train_until_best(data: Data, settings: Settings, train_epoch: Callable[[], object], scores: Scores) -> None:
    """Train epoch by epoch until NDCG@20 on validation gets no better, and report the lists of the best epoch."""
    clock, best, found = Clock(), -1.0, None
    for epoch in range(1, settings.epochs + 1):
        clock.time(train_epoch)
        lists = data.lists(scores)
        quality = data.ndcg(lists)
        if quality > best:
            best, found = quality, (epoch, Clock(clock.seconds, clock.cpu_seconds), lists)
        elif epoch - found[0] >= settings.patience:
            break
    epoch, clock, lists = found
    report(data, clock, epoch, lists)


def report(data: Data, clock: Clock, best_epoch: int | None, lists: np.ndarray, version: str | None = None) -> None:
    np.save(data.path.with_name("lists.npy"), lists)
    package = {"implicit_lists.py": "implicit", "recbole_lists.py": "recbole"}.get(Path(sys.argv[0]).name, "")
    version = version or importlib.metadata.version(package)
    facts = {"seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds, "best_epoch": best_epoch, "version": version}
    print(json.dumps(facts))
