"""Trains the joint representation z: what the trainer needs to know of the mixture of experts and its tasks.

Every worker takes its share of each batch, and each task's loss is normalised by the labelled videos of the whole batch, so that
any number of workers trains the same encoders. Two things are drawn or measured for a share alone: dropout, and the batch
statistics of a cover network that has batch norms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from rayrec.config import Topics
from rayrec.topics import tag_graph
from rayrec.topics.contents import Batch, Contents, Labels, read_labels
from rayrec.topics.encoders import CoverEncoder, PretrainedTitles
from rayrec.topics.mmoe import MMoE, task_loss
from rayrec.topics.representation import Representation
from rayrec.training.callbacks import NO_CALLBACK, Epoch, TrainingCallback
from rayrec.training.exchange import SINGLE, Worker
from rayrec.training.trainable import Trainable
from rayrec.training.trainer import CPU, Trainer
from rayrec.workspace.checkpoint import Checkpoint

WEIGHT_DECAY = 0.1


def train_representation(
    catalog: pa.Table,
    vectors: pa.Table | None,
    features: pa.Table | None,
    settings: Topics,
    seed: int,
    device: torch.device = CPU,
    callback: TrainingCallback = NO_CALLBACK,
    worker: Worker = SINGLE,
    checkpoint: Checkpoint | None = None,
) -> Representation:
    """Encoders trained on the classes and tags of a catalog; without any label they stay as they are.

    Raises `NothingToReadError` for a catalog without covers and titles, and what `fit` raises.
    """
    representation = Representation.start(catalog, vectors, features, settings, seed)
    labels = read_labels(catalog, tag_graph.incidence(catalog["tags"], settings.max_tags, settings.min_tag_videos)[0])
    if labels.tasks:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = MMoE(representation.encoders, labels.tasks, settings).to(device)
        contents = representation.contents(catalog, vectors, features)
        fit(model, contents, labels, np.arange(catalog.num_rows), settings, seed, device, callback, worker, checkpoint)
    representation.encoders.cpu().eval()
    return representation


def fit(
    model: MMoE,
    contents: Contents,
    labels: Labels,
    rows: np.ndarray,
    settings: Topics,
    seed: int,
    device: torch.device,
    callback: TrainingCallback = NO_CALLBACK,
    worker: Worker = SINGLE,
    checkpoint: Checkpoint | None = None,
) -> list[Epoch]:
    """Train `model`, which is on `device`, in place on the given videos (row numbers of the catalog).

    Raises `DivergedError` when the loss stops being finite, and `CheckpointError` for a checkpoint of another model.
    """
    trainer = Trainer(settings.epochs, seed, device=device, worker=worker, callback=callback, checkpoint=checkpoint)
    return trainer.fit(TrainableMMoE(model, contents, labels, rows, settings, seed, device, worker))


@dataclass(frozen=True)
class Share:
    """A worker's videos of a batch."""

    contents: Batch
    labels: dict[str, Tensor]  # of each task, as `task_loss` takes them
    labelled: dict[str, int]  # the number of labelled videos for each task, of the whole batch


class TrainableMMoE(Trainable[Share]):
    """The mixture of experts with the videos that it learns from. There is no validation: it is trained for all epochs."""

    check_steps = 10  # a step that reads covers takes seconds on a CPU

    def __init__(
        self,
        model: MMoE,
        contents: Contents,
        labels: Labels,
        rows: np.ndarray,
        settings: Topics,
        seed: int,
        device: torch.device,
        worker: Worker,
    ) -> None:
        super().__init__(model, torch.optim.AdamW(parameter_groups(model, settings), weight_decay=WEIGHT_DECAY, fused=True))
        self.contents, self.labels, self.rows, self.batch_size = contents, labels, rows, settings.batch_size
        self.seed, self.device, self.worker = seed, device, worker
        self.advice = f"lower topics.learning_rate ({settings.learning_rate:g})"

    def steps(self, epoch: int) -> int:
        return -(-len(self.rows) // self.batch_size)

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Share | None, int]]:
        order = np.random.default_rng((self.seed, epoch - 1)).permutation(self.rows)
        starts = range(skip * self.batch_size, len(order), self.batch_size)
        batches = [order[start : start + self.batch_size] for start in starts]
        shares = [whole[self.worker.rank :: self.worker.world_size] for whole in batches]
        contents = self.contents.batches(mine for mine in shares if len(mine))
        for whole, mine in zip(batches, shares, strict=True):
            share = self._share(next(contents), mine, labelled_videos(self.labels, whole)) if len(mine) else None
            yield share, len(whole)

    def losses(self, share: Share, examples: int) -> Sequence[Tensor]:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.model(share.contents)
        return (task_loss({name: scores.float() for name, scores in logits.items()}, share.labels, share.labelled),)

    def _share(self, contents: Batch, rows: np.ndarray, labelled: dict[str, int]) -> Share:
        labels = {name: values.to(self.device, non_blocking=True) for name, values in self.labels.batch(rows).items()}
        return Share(contents.to(self.device), labels, labelled)


def labelled_videos(labels: Labels, rows: np.ndarray) -> dict[str, int]:
    """How many of the given videos have a label, for each task."""
    counts = {name: int((numbers[rows] >= 0).sum()) for name, numbers in labels.classes.items()}
    return counts | ({"tags": int((np.diff(labels.tags.indptr)[rows] > 0).sum())} if labels.tags is not None else {})


def parameter_groups(model: MMoE, settings: Topics) -> list[dict[str, Any]]:
    """Layers that come with trained weights are trained on at a smaller rate of their own."""
    encoders = model.encoders
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
