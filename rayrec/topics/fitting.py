"""Training the joint representation: pure torch, exact on any number of workers, and resumable.

Every epoch draws its order and its dropout from (seed, epoch), so that a run that was killed and went on from its checkpoint ends
with the same weights as one that was not.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from rayrec.config import ConfigError, Topics
from rayrec.topics import tag_graph
from rayrec.topics.contents import Contents, Labels, read_labels
from rayrec.topics.encoders import CoverEncoder, PretrainedTitles
from rayrec.topics.mmoe import MMoE, task_loss
from rayrec.topics.representation import Representation
from rayrec.training.exchange import SINGLE, Worker
from rayrec.workspace.checkpoint import Checkpoint

WEIGHT_DECAY = 0.1
CPU = torch.device("cpu")
CHECKPOINT_S = 10.0  # at most one checkpoint in so many seconds


@dataclass(frozen=True)
class Epoch:
    epoch: int
    loss: float  # summed over the tasks, mean over the videos
    videos_per_s: float


def train_representation(
    catalog: pa.Table,
    vectors: pa.Table | None,
    features: pa.Table | None,
    settings: Topics,
    seed: int,
    device: torch.device = CPU,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    checkpoint: Checkpoint | None = None,
    worker: Worker = SINGLE,
    shared: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> Representation:
    """Encoders trained on a catalog's classes and tags; without any label they stay as they are. `shared` wraps the model for DDP.

    Raises `NothingToReadError` for a catalog without covers and titles.
    """
    representation = Representation.start(catalog, vectors, features, settings, seed)
    labels = read_labels(catalog, tag_graph.incidence(catalog["tags"], settings.max_tags, settings.min_tag_videos)[0])
    if labels.tasks:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = shared(MMoE(representation.encoders, labels.tasks, settings).to(device))
        contents = representation.contents(catalog, vectors, features)
        fit(model, contents, labels, np.arange(catalog.num_rows), settings, seed, device, on_epoch, checkpoint, worker)
    representation.encoders.cpu().eval()
    return representation


def fit(
    model: nn.Module,
    contents: Contents,
    labels: Labels,
    rows: np.ndarray,
    settings: Topics,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    checkpoint: Checkpoint | None = None,
    worker: Worker = SINGLE,
) -> None:
    """Train an `MMoE` (or DDP around one), which is on `device`, on the given videos.

    Raises `ConfigError` when the loss stops being finite.
    """
    optimizer = torch.optim.AdamW(_parameter_groups(model, settings), weight_decay=WEIGHT_DECAY)
    first = _resume(checkpoint, model, optimizer)
    saved_at = time.monotonic()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for number in range(first, settings.epochs):
            started = time.monotonic()
            torch.manual_seed(int(np.random.SeedSequence((seed, number, worker.rank)).generate_state(1)[0]))
            # Every worker takes the same number of videos, or one would wait for the others' last gradients for ever.
            share = max(1, len(rows) // worker.world_size)
            order = np.random.default_rng((seed, number)).permutation(rows)[worker.rank :: worker.world_size][:share]
            loss = _epoch(model, contents, labels, order, max(1, settings.batch_size // worker.world_size), optimizer, device)
            if not np.isfinite(loss):
                raise ConfigError(f"topics: the loss became {loss} in epoch {number + 1}; lower topics.learning_rate")
            on_epoch(Epoch(number + 1, loss, len(order) * worker.world_size / (time.monotonic() - started)))
            if checkpoint and worker.rank == 0 and (time.monotonic() - saved_at > CHECKPOINT_S or number + 1 == settings.epochs):
                checkpoint.save({"epochs": number + 1, "model": _bare(model).state_dict(), "optimizer": optimizer.state_dict()})
                saved_at = time.monotonic()


def _epoch(
    model: nn.Module,
    contents: Contents,
    labels: Labels,
    order: np.ndarray,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> float:
    """One pass over the videos in the given order; the mean loss."""
    model.train()
    total = torch.zeros((), device=device)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        truth = {name: values.to(device, non_blocking=True) for name, values in labels.batch(rows).items()}
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(contents.batch(rows).to(device))
        loss = task_loss({name: scores.float() for name, scores in logits.items()}, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(rows)
    return float(total) / len(order)


def _parameter_groups(model: nn.Module, settings: Topics) -> list[dict[str, Any]]:
    """What was trained before goes on at its own, smaller rate."""
    encoders = _bare(model).encoders
    pretrained: list[nn.Parameter] = []
    if (
        isinstance(encoders.covers, CoverEncoder)
        and settings.cover_network is not None
        and settings.cover_network.weights != "none"
    ):
        pretrained += encoders.covers.body.parameters()
    if isinstance(encoders.titles, PretrainedTitles):
        pretrained += encoders.titles.body.parameters()
    known = {id(weight) for weight in pretrained}
    fresh = [weight for weight in model.parameters() if id(weight) not in known]
    groups = [{"params": fresh, "lr": settings.learning_rate}, {"params": pretrained, "lr": settings.fine_tuning_rate}]
    return [group for group in groups if group["params"]]


def _resume(checkpoint: Checkpoint | None, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load what an earlier run left, and say how many epochs it had done."""
    state = checkpoint.load() if checkpoint else None
    if state is None:
        return 0
    _bare(model).load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epochs"]


def _bare(model: nn.Module) -> MMoE:
    """Without DDP's wrapping."""
    bare = getattr(model, "module", model)
    assert isinstance(bare, MMoE)
    return bare
