"""The one training loop, for any `Trainable`: epochs, early stopping, the best epoch restored, checkpoints, workers.

All that is random follows from (seed, epoch, step): a training that was killed and is resumed from its checkpoint, also in the
middle of an epoch, sees what it would have seen. Workers share each batch and add up their gradients, so that several train the
model that one would, except for dropout, which each worker draws for its own share.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from rayrec.errors import RayrecError
from rayrec.training.callbacks import NO_CALLBACK, Epoch, Progress, TrainingCallback
from rayrec.training.exchange import SINGLE, Worker, average_statistics, exchange_gradients, total
from rayrec.training.optimizers import clip_gradients
from rayrec.training.trainable import Trainable
from rayrec.workspace.checkpoint import Checkpoint, CheckpointError

CPU = torch.device("cpu")
CHECKPOINT_FORMAT = 2  # version 0.1 of rayrec had formats without a number

Batch = TypeVar("Batch")


class DivergedError(RayrecError):
    """The loss is no longer a finite number; the message names the step and what to change."""


@dataclass(frozen=True)
class Trainer:
    """How long, where and for whom a model is trained."""

    epochs: int
    seed: int
    patience: int | None = None  # epochs without a better one before training stops; None: it never stops early
    clip: float | None = None  # the largest norm of all gradients together
    device: torch.device = CPU
    worker: Worker = SINGLE
    callback: TrainingCallback = NO_CALLBACK
    checkpoint: Checkpoint | None = None
    on_best: Callable[[], None] = lambda: None  # called at the end of an epoch that is better than all before
    checkpoint_s: float = 60.0  # between two checkpoints within an epoch; there is always one at its end

    def fit(self, trainable: Trainable[Any]) -> list[Epoch]:
        """Train the model in place, leave the weights of its best epoch in it, and return all epochs.

        Raises `DivergedError` when the loss stops being finite, and `CheckpointError` for a checkpoint of another model.
        """
        run = _Run(self, trainable)
        run.resume()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            while len(run.epochs) < self.epochs and not run.is_waiting_too_long():
                run.train_epoch()
        trainable.model.load_state_dict(run.best)
        return run.epochs


@dataclass
class _EpochState:
    """Sums over the epoch that is under way."""

    step: int = 0
    examples: int = 0
    losses: list[float] = field(default_factory=list)  # of each term, times the examples
    seconds: float = 0.0

    def means(self) -> list[float]:
        return [value / self.examples for value in self.losses]


class _Run(Generic[Batch]):
    """A training at work."""

    def __init__(self, trainer: Trainer, trainable: Trainable[Batch]) -> None:
        self.trainer, self.trainable = trainer, trainable
        self.model, self.optimizer = trainable.model, trainable.optimizer
        self.best = copy.deepcopy(self.model.state_dict())  # the weights of the best epoch so far
        self.epochs: list[Epoch] = []
        self.now = self._new_epoch()
        self.saved_at = time.monotonic()

    def is_waiting_too_long(self) -> bool:
        patience = self.trainer.patience
        return patience is not None and bool(self.epochs) and len(self.epochs) - self._best_epoch().epoch >= patience

    def train_epoch(self) -> None:
        """The rest of the epoch that is under way, its validation, and a checkpoint."""
        self._take_steps()
        self._check_weights()
        average_statistics(self.model, self.trainer.worker)
        loss, *others = self.now.means()
        terms = dict(zip(self.trainable.terms[1:], others, strict=True))
        speed = self.now.examples / self.now.seconds
        epoch = Epoch(len(self.epochs) + 1, loss, speed, terms | self.trainable.validate())
        self.epochs.append(epoch)
        self.now = self._new_epoch()
        if self._best_epoch() is epoch:
            self.best = copy.deepcopy(self.model.state_dict())
            self.trainer.on_best()
        self._save()
        self.trainer.callback.on_epoch(self.epochs)

    def _take_steps(self) -> None:
        model, optimizer, trainable, trainer, now = self.model, self.optimizer, self.trainable, self.trainer, self.now
        number = len(self.epochs) + 1
        steps = trainable.steps(number)
        model.train()
        looked_at = time.monotonic()
        recent = torch.zeros(trainable.check_steps, len(trainable.terms), device=trainer.device)  # losses since the last look
        sizes: list[int] = []
        for share, examples in trainable.batches(number, now.step):
            seed = ((trainer.seed * 10_007 + number) * 1_000_003 + now.step) * 1_009 + trainer.worker.rank
            _seed_generator(seed % 2**63, trainer.device)
            optimizer.zero_grad()
            if share is not None:
                losses = trainable.losses(share, examples)
                losses[0].backward()
                for place, value in enumerate(losses):
                    recent[len(sizes), place] = value.detach()
            exchange_gradients(model, trainer.worker)
            if trainer.clip is not None:
                clip_gradients(model.parameters(), trainer.clip)
            optimizer.step()
            now.step += 1
            sizes.append(examples)
            if len(sizes) == trainable.check_steps or now.step == steps:
                self._add(total(recent, trainer.worker), sizes)
                recent.zero_()
                sizes.clear()
                now.seconds, looked_at = now.seconds + time.monotonic() - looked_at, time.monotonic()
                self._report(number, steps)

    def _add(self, recent: Tensor, sizes: list[int]) -> None:
        """Add the losses of the last steps to the epoch's sums. Raises `DivergedError`, on all workers alike."""
        rows = recent.tolist()[: len(sizes)]
        for place, (row, size) in enumerate(zip(rows, sizes, strict=True)):
            if not all(map(math.isfinite, row)):
                step = self.now.step - len(sizes) + place + 1
                before = f", after {rows[place - 1][0]:.4g} in the step before" if place else ""
                raise DivergedError(
                    f"training diverged: the loss became {row[0]} in step {step} of epoch {len(self.epochs) + 1}{before}; "
                    f"{self.trainable.advice}"
                )
            self.now.examples += size
            self.now.losses = [one + value * size for one, value in zip(self.now.losses, row, strict=True)]

    def _check_weights(self) -> None:
        """Raises `DivergedError`, on all workers alike, if the epoch's last step went too far, since no loss after it tells."""
        if not all(bool(torch.isfinite(weights).all()) for weights in self.model.parameters()):
            raise DivergedError(
                f"training diverged: the weights are not finite after step {self.now.step}, the last one of epoch "
                f"{len(self.epochs) + 1}; {self.trainable.advice}"
            )

    def _report(self, number: int, steps: int) -> None:
        now = self.now
        left = now.seconds / now.step * (steps - now.step)
        speed = now.examples / now.seconds
        self.trainer.callback.on_progress(Progress(number, now.step, steps, now.means()[0], speed, left), self.epochs)
        if now.step < steps and time.monotonic() - self.saved_at > self.trainer.checkpoint_s:
            self._save()

    def _new_epoch(self) -> _EpochState:
        return _EpochState(losses=[0.0] * len(self.trainable.terms))

    def _best_epoch(self) -> Epoch:
        return max(self.epochs, key=self.trainable.quality)

    # --- the checkpoint -----------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """The first worker writes the checkpoint."""
        if self.trainer.checkpoint is None or self.trainer.worker.rank > 0:
            return
        is_best = self.now.step == 0 and self._best_epoch() is self.epochs[-1]
        self.trainer.checkpoint.save(
            {
                "format": CHECKPOINT_FORMAT,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": None if is_best else self.best,  # None: those of the model
                "epochs": [epoch.to_json() for epoch in self.epochs],
                "now": vars(self.now),
            }
        )
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one."""
        checkpoint = self.trainer.checkpoint
        state = checkpoint.load() if checkpoint else None
        if checkpoint is None or state is None:
            return
        if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
            raise CheckpointError(
                f"{checkpoint.path}: a checkpoint of another version of rayrec; delete it to start this training anew"
            )
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best = copy.deepcopy(self.model.state_dict()) if state["best"] is None else state["best"]
            self.epochs = [Epoch.from_json(facts) for facts in state["epochs"]]
            self.now = _EpochState(**state["now"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{checkpoint.path}: a checkpoint of another config or other data; delete it to start this training anew ({reason})"
            ) from error


def _seed_generator(seed: int, device: torch.device) -> None:
    """Like `torch.manual_seed`, which takes 0.1 ms because it looks for every kind of device."""
    (torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator).manual_seed(seed)
