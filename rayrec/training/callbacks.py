"""What a training reports while it runs, and who is told."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Epoch:
    """The results of one epoch."""

    epoch: int  # 1, 2, ...
    loss: float  # mean over the examples
    examples_per_s: float
    metrics: dict[str, float] = field(default_factory=dict)  # further terms of the loss, and those of the validation

    def to_json(self) -> dict[str, Any]:
        """One flat mapping, with the metrics beside the other values."""
        facts = asdict(self)
        return facts | facts.pop("metrics")

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> "Epoch":
        metrics = dict(facts)
        return cls(metrics.pop("epoch"), metrics.pop("loss"), metrics.pop("examples_per_s"), metrics)


@dataclass(frozen=True)
class Progress:
    """How far a training is within an epoch."""

    epoch: int
    step: int
    steps: int  # of an epoch
    loss: float  # of the epoch so far
    examples_per_s: float
    seconds_left: float  # of the epoch


@dataclass(frozen=True)
class TrainingCallback:
    """Functions that are called with all epochs so far at the end of each, and from time to time within one."""

    on_epoch: Callable[[list[Epoch]], None] = lambda epochs: None
    on_progress: Callable[[Progress, list[Epoch]], None] = lambda progress, epochs: None


NO_CALLBACK = TrainingCallback()


def together(callbacks: Sequence[TrainingCallback]) -> TrainingCallback:
    """One callback that calls all of them in order."""

    def on_epoch(epochs: list[Epoch]) -> None:
        for callback in callbacks:
            callback.on_epoch(epochs)

    def on_progress(progress: Progress, epochs: list[Epoch]) -> None:
        for callback in callbacks:
            callback.on_progress(progress, epochs)

    return TrainingCallback(on_epoch, on_progress)
