"""What every peer's script shares: reading the rows, timing epochs one at a time, and the one JSON line that comes out.

A script runs in its library's own environment, as `python SCRIPT rows.npz SETTINGS`; SETTINGS is a JSON object (`Settings`). The
rows hold, for each split, `SPLIT.label`, the numbers of each field's values and, with histories, the clicked films before the
impression, oldest first, 0 behind the last; 0 is an unknown value everywhere. `size.FIELD` says how many values a field has.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import log_loss, roc_auc_score

HISTORY, HISTORY_LENGTH = "history", "history_length"  # of the values of the field TARGET
TARGET = "film"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Settings:
    model: str
    epochs: int
    history: int = 0  # its length; 0 is for rows without
    patience: int | None = None  # epochs without a better validation AUC before it stops; None trains them all
    movielens: str = ""  # the folder, for our own side, which makes its rows itself
    copies: int = 1  # of the training rows, in the rows already
    batch: int = 1024
    embedding: int = 16
    hidden: tuple[int, ...] = (128, 64)
    attention: tuple[int, ...] = (64, 16)  # hidden layers of the net that weighs a click, where a model has one
    learning_rate: float = 1e-3
    dropout: float = 0.0  # of the hidden layers
    weight_decay: float = 0.0  # Adam's, of all weights, beside the mean of a batch's losses
    threads: int = 2
    seed: int = 7


@dataclass(frozen=True)
class Rows:
    """The columns of each split, and how many values each field has, the unknown one included."""

    columns: dict[str, dict[str, np.ndarray]]
    sizes: dict[str, int]

    @classmethod
    def read(cls, path: str) -> "Rows":
        with np.load(path) as stored:
            columns = {
                split: {key.split(".")[1]: stored[key] for key in stored.files if key.startswith(f"{split}.")} for split in SPLITS
            }
            return cls(columns, {key.split(".")[1]: int(stored[key]) for key in stored.files if key.startswith("size.")})

    @property
    def fields(self) -> list[str]:
        """The fields of a single value."""
        return [name for name, column in self.columns["train"].items() if column.ndim == 1 and name in self.sizes]

    @property
    def lists(self) -> dict[str, int]:
        """The fields of several values, 0-padded, and how many at most."""
        return {name: column.shape[1] for name, column in self.columns["train"].items() if column.ndim == 2 and name != HISTORY}

    def inputs(self, split: str, kind: type = np.int64) -> dict[str, np.ndarray]:
        return {name: column.astype(kind) for name, column in self.columns[split].items() if name != "label"}

    def labels(self, split: str) -> np.ndarray:
        return self.columns[split]["label"].astype(np.float32)


@dataclass(frozen=True)
class Trainee:
    """A model in its library's hands. `train_epoch` returns the seconds of the library's own loop over one epoch."""

    train_epoch: Callable[[], float]
    predict: Callable[[str], np.ndarray]  # a split's click probabilities


def seconds_of(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(package: str, build: Callable[[Rows, Settings], Trainee]) -> None:
    """Train and report the epoch with the best validation AUC."""
    rows, settings = begin()
    trainee = build(rows, settings)
    seconds, validation, test = [], [], []
    for _ in range(settings.epochs):
        seconds.append(trainee.train_epoch())
        validation.append(roc_auc_score(rows.labels("validation"), trainee.predict("validation")))
        test.append(trainee.predict("test"))
        best = int(np.argmax(validation))
        if settings.patience is not None and len(validation) - 1 - best >= settings.patience:
            break
    version = importlib.metadata.version(package)
    speeds = [len(rows.labels("train")) / taken for taken in seconds]
    report(package, version, settings, speeds, validation, rows.labels("test"), test[best])


def begin() -> tuple[Rows, Settings]:
    """The script's arguments."""
    rows, settings = Rows.read(sys.argv[1]), Settings(**json.loads(sys.argv[2]))
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    return rows, settings


def report(
    library: str,
    version: str,
    settings: Settings,
    speeds: list[float],
    validation: list[float],
    labels: np.ndarray,
    probability: np.ndarray,
) -> None:
    """`speeds` and validation AUC of each epoch; the test split's labels, and the probabilities of the best epoch."""
    facts = {
        "library": library,
        "version": version,
        "model": settings.model,
        "examples_per_s": [round(speed) for speed in speeds],  # the first epoch warms up
        "auc": roc_auc_score(labels, probability),
        "log_loss": log_loss(labels, probability),
        "validation_auc": max(validation),
        "best_epoch": int(np.argmax(validation)) + 1,
        "epochs": len(speeds),
    }
    print(json.dumps(facts))
