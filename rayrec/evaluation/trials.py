"""The trials of a search: as a table, as JSON, and the best one as a config."""

import csv
import io
import json
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import yaml

from rayrec.config import Config, with_values
from rayrec.workspace.files import to_json

if TYPE_CHECKING:
    from rayrec.training.callbacks import Epoch

BEST, TABLE, TRIALS = "best.yaml", "trials.csv", "trials.json"  # files of the stage `tune`


@dataclass(frozen=True)
class TrainingSummary:
    """How one training went, in a few numbers."""

    epochs: int
    best_epoch: int
    auc: float  # of the best epoch, on the validation split
    log_loss: float  # likewise
    examples_per_s: float  # median over the epochs
    seconds: float  # spent in training steps, without validation

    @classmethod
    def of(cls, epochs: "list[Epoch]", examples: int) -> "TrainingSummary":
        from rayrec.ranking.fitting import AUC, LOG_LOSS  # torch, which a command that only prints trials does without

        best = max(epochs, key=lambda epoch: epoch.metrics[AUC])
        speeds = [epoch.examples_per_s for epoch in epochs]
        seconds = sum(examples / speed for speed in speeds)
        return cls(len(epochs), best.epoch, best.metrics[AUC], best.metrics[LOG_LOSS], median(speeds), seconds)


@dataclass(frozen=True)
class Trial:
    """One training of a search, with its own values for some keys of the config."""

    number: int  # from 1, in the order in which they started
    values: dict[str, Any]  # key -> the value that replaces the config's
    status: str  # finished, stopped (by ASHA) or failed
    reason: str  # why it did not finish; empty if it did
    summary: TrainingSummary | None  # None where no epoch was finished
    parameters: int | None


def ranked(trials: list[Trial], metric: str) -> list[Trial]:
    """The trials from the best to the worst, followed by those that failed."""

    def sort_key(trial: Trial) -> tuple[bool, float]:
        if trial.status == "failed" or trial.summary is None:
            return True, 0.0
        return False, trial.summary.log_loss if metric == "log_loss" else -trial.summary.auc

    return sorted(trials, key=sort_key)


def in_words(values: dict[str, Any]) -> str:
    """The values of a trial, such as `model=fm hidden=[64, 32]`."""
    return " ".join(f"{key.split('.', 1)[1]}={value_text(value)}" for key, value in values.items())


def value_text(value: Any) -> str:
    """A value as short text, numbers with three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def trials_csv(trials: list[Trial], keys: list[str]) -> bytes:
    """A row for each trial: its value for each key, its outcome, and the summary of its training."""
    columns = list(TrainingSummary.__dataclass_fields__)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["trial", *keys, "status", "reason", *columns, "parameters"])
    for trial in trials:
        summary = [getattr(trial.summary, name) if trial.summary else None for name in columns]
        values = [value if isinstance(value, str) else json.dumps(value) for value in (trial.values[key] for key in keys)]
        writer.writerow([trial.number, *values, trial.status, trial.reason, *summary, trial.parameters])
    return file.getvalue().encode()


def trials_json(trials: list[Trial]) -> bytes:
    return to_json([asdict(trial) for trial in trials], indent=1)


def best_yaml(config: Config, best: Trial, trials: int) -> bytes:
    """The config with the values of the best trial, for `rayrec train`. It contains only what differs from the defaults."""
    assert best.summary is not None
    found = with_values(config, best.values)
    scores = f"validation AUC {best.summary.auc:.4f}, log loss {best.summary.log_loss:.4f}"
    head = f"# Trial {best.number}, the best of {trials}: {scores}.\n"
    tree = found.model_dump(mode="json", exclude_defaults=True, exclude={"tuning", "comparison"})
    return (head + yaml.safe_dump(tree, sort_keys=False, default_flow_style=None)).encode()
