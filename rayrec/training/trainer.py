"""The training loop, in pure torch: epochs over shuffled examples, early stopping on validation AUC, the best epoch restored.

All that is random comes from (seed, epoch, step): a run that was killed and goes on from its checkpoint, in the middle of an epoch
or with another number of workers, sees the batches that it would have seen. Workers share each batch and add up their gradients,
so that several do what one would.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from rayrec.config import Ranker, Training
from rayrec.data.batches import batches, steps_of, training_batches
from rayrec.data.examples import Examples
from rayrec.data.history import HistoryGather
from rayrec.data.loading import RankingData
from rayrec.errors import RayrecError
from rayrec.ranking.model import RankingModel
from rayrec.ranking.scorer import Scorer
from rayrec.training.exchange import SINGLE, Worker, exchange_gradients, gather_rows, total
from rayrec.training.metrics import auc, log_loss
from rayrec.training.optimizers import clip_gradients
from rayrec.workspace.checkpoint import Checkpoint, CheckpointError

CPU = torch.device("cpu")
CHECK_STEPS = 100  # between looks at the loss, each of which waits for the device


class DivergedError(RayrecError):
    """The loss is no longer a finite number; the message names the step and the cause."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to."""

    epoch: int
    loss: float  # the mean of what was made small: log loss, and what a model adds to it
    validation_auc: float
    validation_log_loss: float
    examples_per_s: float


@dataclass(frozen=True)
class Progress:
    """Where a run stands within an epoch."""

    epoch: int
    step: int
    steps: int  # of an epoch
    loss: float  # of the epoch so far
    examples_per_s: float
    seconds_left: float  # of the epoch


@dataclass(frozen=True)
class TrainingCallback:
    """Who is told how training goes: with all epochs so far at the end of each, and every now and then within one."""

    on_epoch: Callable[[list[Epoch]], None] = lambda epochs: None
    on_progress: Callable[[Progress, list[Epoch]], None] = lambda progress, epochs: None


NO_CALLBACK = TrainingCallback()


def train_ranker(
    data: RankingData,
    ranker: Ranker,
    settings: Training,
    seed: int,
    device: torch.device = CPU,
    callback: TrainingCallback = NO_CALLBACK,
    worker: Worker = SINGLE,
    checkpoint: Checkpoint | None = None,
) -> tuple[Scorer, list[Epoch]]:
    """A scorer with the weights of its best epoch, and all epochs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = Scorer.untrained(ranker, data)
    scorer.to(device)
    return scorer, fit(scorer.model, data, ranker.history_length, settings, seed, device, callback, worker, checkpoint)


def fit(
    model: RankingModel,
    data: RankingData,
    history_length: int,
    settings: Training,
    seed: int,
    device: torch.device = CPU,
    callback: TrainingCallback = NO_CALLBACK,
    worker: Worker = SINGLE,
    checkpoint: Checkpoint | None = None,
) -> list[Epoch]:
    """Train `model`, which is on `device`, in place and leave the weights of its best epoch in it.

    Raises `DivergedError` when the loss stops being finite, and `CheckpointError` for a checkpoint of another model.
    """
    gather = HistoryGather(data.clicks, history_length, device)
    run = _Run.start(model, settings, checkpoint)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while len(run.epochs) < settings.epochs and not run.waited_enough(settings.patience):
            loss, examples_per_s = _train_epoch(run, data, gather, settings, seed, device, callback, worker)
            probability = predict(model, data.validation, gather, device, worker)
            quality = auc(data.validation.clicked, probability), log_loss(data.validation.clicked, probability)
            run.end_epoch(Epoch(len(run.epochs) + 1, loss, *quality, examples_per_s))
            if worker.rank == 0:
                run.save()
            callback.on_epoch(run.epochs)
    model.load_state_dict(run.best)
    return run.epochs


@torch.inference_mode()
def predict(
    model: RankingModel,
    examples: Examples,
    gather: HistoryGather,
    device: torch.device,
    worker: Worker = SINGLE,
    batch_size: int = 8192,
) -> np.ndarray:
    """The click probability of each example, float32 [examples]; the workers share the work and all get the whole."""
    model.eval()
    parts = [torch.sigmoid(model(batch))[:, 0].float() for batch in batches(examples, gather, batch_size, device, worker)]
    return gather_rows(torch.cat(parts) if parts else torch.empty(0, device=device), worker).cpu().numpy()


@dataclass
class _Run:
    """A training at work: what a checkpoint holds, and where it goes."""

    model: RankingModel
    optimizer: torch.optim.Optimizer
    checkpoint: Checkpoint | None
    best: dict[str, torch.Tensor]  # the weights of the best epoch so far
    epochs: list[Epoch]
    step: int = 0  # of the epoch that is under way
    loss: float = 0.0  # of its examples, summed
    seconds: float = 0.0

    @classmethod
    def start(cls, model: RankingModel, settings: Training, checkpoint: Checkpoint | None) -> "_Run":
        run = cls(model, model.optimizer(settings), checkpoint, copy.deepcopy(model.state_dict()), [])
        state = checkpoint.load() if checkpoint else None
        if checkpoint is None or state is None:
            return run
        try:
            model.load_state_dict(state["model"])
            run.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{checkpoint.path}: a checkpoint of another config or other data; delete it ({reason})"
            ) from error
        run.best, run.epochs = state["best"], [Epoch(**epoch) for epoch in state["epochs"]]
        run.step, run.loss, run.seconds = state["step"], state["loss"], state["seconds"]
        return run

    def save(self) -> None:
        if self.checkpoint is not None:
            state: dict[str, Any] = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "best": self.best}
            state |= {"epochs": [asdict(epoch) for epoch in self.epochs]}
            self.checkpoint.save(state | {"step": self.step, "loss": self.loss, "seconds": self.seconds})

    def end_epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        self.step, self.loss, self.seconds = 0, 0.0, 0.0
        if self._best() is epoch:
            self.best = copy.deepcopy(self.model.state_dict())

    def waited_enough(self, patience: int) -> bool:
        return bool(self.epochs) and len(self.epochs) - self._best().epoch >= patience

    def _best(self) -> Epoch:
        return max(self.epochs, key=_quality)


def _quality(epoch: Epoch) -> float:
    """Validation AUC, or how small the log loss is where the AUC does not exist (one label only)."""
    return epoch.validation_auc if np.isfinite(epoch.validation_auc) else -epoch.validation_log_loss


def _train_epoch(
    run: _Run,
    data: RankingData,
    gather: HistoryGather,
    settings: Training,
    seed: int,
    device: torch.device,
    callback: TrainingCallback,
    worker: Worker,
) -> tuple[float, float]:
    """The rest of the epoch that is under way: the mean loss, and examples a second."""
    model, optimizer, number, steps = run.model, run.optimizer, len(run.epochs) + 1, steps_of(data.train, settings)
    losses = torch.compile(model.losses) if settings.compile else model.losses
    model.train()
    looked, saved, first = time.monotonic(), time.monotonic(), run.step
    recent = torch.zeros(CHECK_STEPS, device=device)  # the summed losses of the steps since the last look
    for batch, size in training_batches(data.train, gather, settings, device, seed, number, worker, skip=first):
        _seed_generator(((seed * 10_007 + number) * 1_000_003 + run.step) * 1_009 + worker.rank, device)
        optimizer.zero_grad()
        if len(batch.user):
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
                loss = losses(batch).float().sum()
            (loss / size).backward()
            recent[run.step % CHECK_STEPS] = loss.detach()
        exchange_gradients(model, worker)
        if settings.clip is not None:
            clip_gradients(model.parameters(), settings.clip)
        optimizer.step()
        run.step += 1
        if run.step % CHECK_STEPS == 0 or run.step == steps:
            run.loss += _finite(total(recent, worker).tolist(), run, settings)
            recent.zero_()
            now = time.monotonic()
            run.seconds, looked = run.seconds + now - looked, now
            examples = min(run.step * settings.batch_size, len(data.train))
            left = run.seconds / run.step * (steps - run.step)
            callback.on_progress(Progress(number, run.step, steps, run.loss / examples, examples / run.seconds, left), run.epochs)
            if worker.rank == 0 and now - saved > settings.checkpoint_s and run.step < steps:
                run.save()
                saved = now
    return run.loss / len(data.train), len(data.train) / run.seconds


def _seed_generator(seed: int, device: torch.device) -> None:
    """As `torch.manual_seed`, which takes .1 ms since it looks for every kind of device."""
    (torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator).manual_seed(seed)


def _finite(losses: list[float], run: _Run, settings: Training) -> float:
    """The sum, or an error that says when and why there is none. All workers see the same numbers, so all stop."""
    bad = next((place for place, loss in enumerate(losses) if not math.isfinite(loss)), None)
    if bad is None:
        return sum(losses)
    step = (run.step - 1) // CHECK_STEPS * CHECK_STEPS + bad + 1
    before = f", after {losses[bad - 1] / settings.batch_size:.4g} in the step before" if bad else ""
    raise DivergedError(
        f"training diverged: the loss became {losses[bad]} in step {step} of epoch {len(run.epochs) + 1}{before}; lower "
        f"training.learning_rate ({settings.learning_rate:g}) or set training.clip"
    )
