"""Learns the space by two contrastive losses, with the one trainer.

InfoNCE (van den Oord et al., 2018), as CLIP uses it (Radford et al., 2021): of all videos of a batch, the projection of a video's
cover has to tell the one whose title it is, and so for every two modalities, in both directions. The supervised contrastive loss
(Khosla et al., 2020) treats all videos that are alike, by class or tags, as right answers, each by how alike it is.

The losses are sums over the videos that ask. Every worker projects the whole batch, which costs little, and takes the losses of its
own share of the askers. So any number of workers learns the same space.
Shapes: B videos in a batch, b in a worker's share of it, S numbers in the space.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from rayrec.config import Search
from rayrec.retrieval.inputs import Inputs
from rayrec.retrieval.labels import Labels
from rayrec.retrieval.measures import mean_average_precision
from rayrec.retrieval.space import Space, mean_of, projected
from rayrec.training.callbacks import NO_CALLBACK, Epoch, TrainingCallback
from rayrec.training.exchange import SINGLE, Worker
from rayrec.training.trainable import Trainable
from rayrec.training.trainer import CPU, Trainer
from rayrec.workspace.checkpoint import Checkpoint

IMPOSSIBLE = -1e4  # the logit of an answer that is not there
MAP = "map"


def fit(
    inputs: Inputs,
    labels: Labels,
    settings: Search,
    seed: int,
    device: torch.device = CPU,
    callback: TrainingCallback = NO_CALLBACK,
    worker: Worker = SINGLE,
    checkpoint: Checkpoint | None = None,
) -> Space:
    """A space learned from these videos, on the CPU. Raises `DivergedError` when the loss stops being finite."""
    train, held_out = split(inputs.count, settings.held_out, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        space = Space({name: values.shape[1] for name, values in inputs.values.items()}, settings)
    space.fit_scales(inputs)
    trainable = TrainableSpace(space.to(device), inputs, labels, train, held_out, settings, seed, device, worker)
    trainer = Trainer(settings.epochs, seed, settings.patience, None, device, worker, callback, checkpoint)
    trainer.fit(trainable)
    return space.cpu().eval()


def split(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows to learn from, and those that are held out: about this share, but at least one of two or more."""
    order = np.random.default_rng(seed).permutation(count)
    held_out = min(max(1, round(share * count)), count - 1)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


@dataclass(frozen=True)
class Share:
    """A batch, and which of its videos ask for this worker."""

    values: dict[str, Tensor]  # float32 [B, D]
    present: dict[str, Tensor]  # bool [B]
    mine: Tensor  # int64 [b]
    alike: Tensor  # float32 [b, B], zero for the asking video itself


class TrainableSpace(Trainable[Share]):
    """The space with its videos. The best epoch is the one that finds held-out videos best, by mean average precision."""

    terms = ("loss", "own", "alike")

    def __init__(
        self,
        space: Space,
        inputs: Inputs,
        labels: Labels,
        train: np.ndarray,
        held_out: np.ndarray,
        settings: Search,
        seed: int,
        device: torch.device,
        worker: Worker = SINGLE,
    ) -> None:
        optimizer = torch.optim.AdamW(space.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        super().__init__(space, optimizer)
        self.space, self.inputs, self.labels, self.train, self.held_out = space, inputs, labels, train, held_out
        self.settings, self.seed, self.device, self.worker = settings, seed, device, worker
        self.advice = f"lower search.learning_rate ({settings.learning_rate:g})"

    def steps(self, epoch: int) -> int:
        return -(-len(self.train) // self.settings.batch_size)

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Share | None, int]]:
        order, size = np.random.default_rng((self.seed, epoch)).permutation(self.train), self.settings.batch_size
        for start in range(skip * size, len(order), size):
            rows = order[start : start + size]
            mine = np.arange(self.worker.rank, len(rows), self.worker.world_size)
            yield self._share(rows, mine) if len(mine) else None, len(rows)

    def losses(self, share: Share, examples: int) -> Sequence[Tensor]:
        found = self.space(share.values)
        own = alike = torch.zeros((), device=self.device)
        for asking, answering in product(found, found):
            logits = found[asking][share.mine] @ found[answering].T / self.settings.temperature
            possible = share.present[answering].expand_as(logits)
            if asking == answering:
                possible = possible.scatter(1, share.mine[:, None], False)  # a vector is no answer to itself
            log_shares = logits.masked_fill(~possible, IMPOSSIBLE).log_softmax(dim=1)
            asks = share.present[asking][share.mine]
            if asking != answering:
                both = asks & share.present[answering][share.mine]
                own = own - log_shares.gather(1, share.mine[:, None])[both].sum()
            right = share.alike * possible * asks[:, None]
            alike = alike - (right / right.sum(dim=1, keepdim=True).clamp(min=1e-9) * log_shares).sum()
        own, alike = own / (examples * max(1, len(found) * (len(found) - 1))), alike / (examples * len(found) ** 2)
        return own + self.settings.alike * alike, own, alike

    def validate(self) -> dict[str, float]:
        """How well each modality of a held-out video finds it and those like it, by all other modalities of theirs."""
        self.space.eval()
        inputs = self.inputs.take(self.held_out)
        vectors = projected(self.space, inputs)
        relevant = (self.labels.likeness(self.held_out, self.held_out) > 0) | np.eye(inputs.count, dtype=bool)
        found = []
        for name, asking in vectors.items():
            answers = mean_of(vectors, inputs.count, self.space.size, without=name if len(vectors) > 1 else "")
            asks, answered = inputs.present[name], answers.any(axis=1)
            found.append(mean_average_precision(asking[asks] @ answers[answered].T, relevant[asks][:, answered]))
        return {MAP: float(np.nanmean(found)) if np.isfinite(found).any() else 0.0}

    def quality(self, epoch: Epoch) -> float:
        return epoch.metrics[MAP]

    def _share(self, rows: np.ndarray, mine: np.ndarray) -> Share:
        batch = self.inputs.take(rows)
        alike = self.labels.likeness(rows[mine], rows)
        alike[np.arange(len(mine)), mine] = 0
        values, present = (
            {name: torch.from_numpy(each).to(self.device) for name, each in arrays.items()}
            for arrays in (batch.values, batch.present)
        )
        return Share(values, present, torch.from_numpy(mine).to(self.device), torch.from_numpy(alike).to(self.device))
