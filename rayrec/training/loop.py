"""The training loop, in pure torch: epochs over shuffled examples, early stopping on validation AUC, the best epoch restored."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rayrec.config import Training
from rayrec.ranking.examples import Examples, RankingData, batches
from rayrec.ranking.history import HistoryGather
from rayrec.training.metrics import auc, log_loss
from rayrec.workers import ALONE, Worker


class DivergedError(ValueError):
    """The loss is no longer a finite number; the message names the step."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to."""

    epoch: int
    loss: float  # mean training log loss
    validation_auc: float
    validation_log_loss: float
    examples_per_s: float


def fit(
    model: nn.Module,
    data: RankingData,
    history_length: int,
    settings: Training,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
    worker: Worker = ALONE,
) -> list[Epoch]:
    """Train `model` in place and leave the weights of its best epoch in it.

    All workers see the same shuffled order and take every `count`-th example of it, so that together they see each example once
    an epoch. Raises `DivergedError` when the loss stops being finite.
    """
    gather = HistoryGather(data.clicks, history_length, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    rng = np.random.default_rng(seed)
    epochs: list[Epoch] = []
    best_state = copy.deepcopy(model.state_dict())
    for number in range(settings.epochs):
        started = time.monotonic()
        # Every worker has the same number of examples, or one would wait for the others' last gradients for ever.
        share = len(data.train) // worker.count
        order = rng.permutation(len(data.train))[worker.rank :: worker.count][:share]
        loss = _train_epoch(model, data.train, gather, optimizer, settings.batch_size // worker.count, order, device)
        seconds = time.monotonic() - started
        probability = predict(model, data.validation, gather, device)
        epoch = Epoch(
            epoch=number + 1,
            loss=loss,
            validation_auc=auc(data.validation.clicked, probability),
            validation_log_loss=log_loss(data.validation.clicked, probability),
            examples_per_s=len(data.train) / seconds,
        )
        epochs.append(epoch)
        on_epoch(epoch)
        best = max(epochs, key=_quality)
        if best is epoch:
            best_state = copy.deepcopy(model.state_dict())
        elif number + 1 - best.epoch >= settings.patience:
            break
    model.load_state_dict(best_state)
    return epochs


@torch.inference_mode()
def predict(
    model: nn.Module, examples: Examples, gather: HistoryGather, device: torch.device, batch_size: int = 8192
) -> np.ndarray:
    """The click probability of each example: float32 [examples]."""
    model.eval()
    parts = [torch.sigmoid(model(batch))[:, 0].float().cpu().numpy() for batch in batches(examples, gather, batch_size, device)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


def _train_epoch(
    model: nn.Module,
    examples: Examples,
    gather: HistoryGather,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    order: np.ndarray,
    device: torch.device,
) -> float:
    """One pass over the examples in the given order; the mean loss."""
    model.train()
    total, steps = torch.zeros((), device=device), 0
    for batch in batches(examples, gather, max(batch_size, 1), device, order):
        assert batch.labels is not None
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(model(batch), batch.labels)
        loss.backward()
        optimizer.step()
        total += loss.detach()
        steps += 1
    mean = float(total) / max(steps, 1)
    if not np.isfinite(mean):
        raise DivergedError(f"the loss became {mean} within {steps} steps of {batch_size}; lower training.learning_rate")
    return mean


def _quality(epoch: Epoch) -> float:
    """Validation AUC, or how small the log loss is where the AUC does not exist (one label only)."""
    return epoch.validation_auc if np.isfinite(epoch.validation_auc) else -epoch.validation_log_loss
