"""Trains the private/public network on decoded part files, and computes global features with it. Pure torch, and torch's own DDP.

Memory holds `GROUP_FILES` part files at a time, however many there are. Each worker takes its share of the files, whole, and makes
as many steps as every other. After each epoch a checkpoint is put in place in one step; training that was killed goes on behind it
and ends in the same weights as if it had not been.
"""

import copy
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from rayrec import tables
from rayrec.config import PrivatePublic, dump
from rayrec.errors import RayrecError
from rayrec.features.private_public.inputs import shapes
from rayrec.features.private_public.network import Inputs, PrivatePublicNetwork, losses
from rayrec.training import exchange
from rayrec.workspace.checkpoint import Checkpoint
from rayrec.workspace.files import read_whole, write_whole

CPU = torch.device("cpu")
GROUP_FILES = 8  # part files that are shuffled together
NETWORK, WEIGHTS = "network.json", "network.safetensors"
CHECKPOINT = "checkpoint.pt"


class DivergedError(RayrecError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to; the losses are means over its steps."""

    epoch: int
    loss: float
    classification: float
    similarity: float
    difference: float
    held_out_loss: float  # cross-entropy
    held_out_accuracy: float
    videos_per_s: float


@dataclass(frozen=True)
class Worker(exchange.Worker):
    """And where it computes."""

    device: torch.device = CPU

    def total(self, values: Tensor) -> Tensor:
        """The sum over all workers."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values


@dataclass(frozen=True)
class PartFiles:
    """Part files of rows of INPUTS, and how many rows each holds."""

    fs: pafs.FileSystem
    paths: list[str]
    rows: list[int]

    @classmethod
    def of(cls, fs: pafs.FileSystem, folder: str) -> "PartFiles":
        found = fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        paths = sorted(item.path for item in found if item.path.endswith(".parquet"))
        return cls(fs, paths, [pq.read_metadata(path, filesystem=fs).num_rows for path in paths])

    def taken(self, places: np.ndarray) -> "PartFiles":
        return PartFiles(self.fs, [self.paths[place] for place in places], [self.rows[place] for place in places])

    def read(self, start: int) -> list[pa.Table]:
        """Of the group of files that begins at `start`."""
        return [pq.read_table(path, filesystem=self.fs) for path in self.paths[start : start + GROUP_FILES]]


def fit(
    model: nn.Module,
    train: PartFiles,
    held_out: PartFiles,
    settings: PrivatePublic,
    seed: int,
    checkpoint: Checkpoint,
    on_epoch: Callable[[Epoch], None],
    worker: Worker,
) -> list[Epoch]:
    """Train `model`, plain or in DDP, in place until the held-out loss stops falling; leaves the weights of the best epoch in it.

    Raises `DivergedError` when the loss stops being finite, and `RayrecError` where a worker would have no video to learn from, or
    no video is held out.
    """
    if len(train.paths) < worker.world_size or not held_out.paths:
        raise RayrecError(
            f"private_public: {sum(train.rows)} readable videos with a class, in {len(train.paths)} part files, to train "
            f"{worker.world_size} workers, and {sum(held_out.rows)} to hold out: that is too few; the `rejects` of `extract` "
            "say what can't be read; lower private_public.workers, or leave the section `private_public` out of the config"
        )
    network = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(network, PrivatePublicNetwork)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    best, epochs = _resume(checkpoint, network, optimizer)
    while len(epochs) < settings.epochs and len(epochs) - _best(epochs) <= settings.patience:
        number = len(epochs) + 1
        started = time.monotonic()
        means, videos = _train_epoch(model, train, settings, np.random.default_rng((seed, number)), optimizer, worker)
        seconds = time.monotonic() - started
        if not np.isfinite(means).all():
            raise DivergedError(f"the loss became {means[0]} in epoch {number}; lower private_public.learning_rate")
        loss, accuracy = evaluate(network, held_out, settings, worker)
        epochs.append(Epoch(number, means[0], means[1], means[2], means[3], loss, accuracy, videos / seconds))
        if _best(epochs) == number:
            best = copy.deepcopy(network.state_dict())
        if worker.rank == 0:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "best": best}
            checkpoint.save(state | {"epochs": [asdict(epoch) for epoch in epochs]})
        on_epoch(epochs[-1])
    network.load_state_dict(best)
    return epochs


def _resume(checkpoint: Checkpoint, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[Epoch]]:
    """Put what an earlier run left into both; the best weights so far and the epochs done."""
    state = checkpoint.load()
    if state is None:
        return copy.deepcopy(network.state_dict()), []
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return state["best"], [Epoch(**epoch) for epoch in state["epochs"]]


def _best(epochs: list[Epoch]) -> int:
    """The number of the epoch with the least held-out loss; 0 before the first."""
    return min(epochs, key=lambda epoch: epoch.held_out_loss).epoch if epochs else 0


def report(epochs: list[Epoch], classes: int, videos: dict[str, int]) -> dict[str, Any]:
    """What training came to, as JSON values. The held-out videos also chose the epoch: their accuracy is a little flattered."""
    best = epochs[_best(epochs) - 1]
    figures = {"held_out_accuracy": best.held_out_accuracy, "chance": 1 / classes, "best_epoch": best.epoch}
    return {"videos": videos, "classes": classes} | figures | {"epochs": [asdict(epoch) for epoch in epochs]}


def _train_epoch(
    model: nn.Module,
    train: PartFiles,
    settings: PrivatePublic,
    rng: np.random.Generator,
    optimizer: torch.optim.Optimizer,
    worker: Worker,
) -> tuple[list[float], int]:
    """One pass in a new order; the mean losses (total, classification, similarity, difference), and the videos of all workers."""
    model.train()
    size = max(1, settings.batch_size // worker.world_size)
    order = rng.permutation(len(train.paths))  # the same on every worker
    shares = [train.taken(order[rank :: worker.world_size]) for rank in range(worker.world_size)]
    steps = min(-(-sum(share.rows) // size) for share in shares)
    sums, videos = torch.zeros(4, device=worker.device), 0
    for _, (inputs, labels, ids) in zip(range(steps), batches(shares[worker.rank], settings, size, rng), strict=False):
        optimizer.zero_grad()
        inputs, labels = inputs.to(worker.device), labels.to(worker.device)
        vectors, logits = model(inputs)
        found = losses(vectors, logits, inputs, labels, settings)
        found.total.backward()
        optimizer.step()
        sums += found.stacked()
        videos += len(ids)
    means = worker.total(sums) / (steps * worker.world_size)
    return means.tolist(), int(worker.total(torch.tensor(videos, device=worker.device)))


@torch.inference_mode()
def evaluate(network: PrivatePublicNetwork, held_out: PartFiles, settings: PrivatePublic, worker: Worker) -> tuple[float, float]:
    """Cross-entropy and accuracy over the held-out videos of all workers."""
    network.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=worker.device)
    share = held_out.taken(np.arange(len(held_out.paths))[worker.rank :: worker.world_size])
    for inputs, labels, _ in batches(share, settings, settings.batch_size):
        labels = labels.to(worker.device)
        _, logits = network(inputs.to(worker.device))
        right = (logits.argmax(-1) == labels).sum()
        sums += torch.stack([cross_entropy(logits, labels, reduction="sum"), right, right.new_tensor(len(labels))])
    loss, right, count = worker.total(sums).tolist()
    return loss / max(count, 1), right / max(count, 1)


@torch.inference_mode()
def write_vectors(network: PrivatePublicNetwork, parts: PartFiles, settings: PrivatePublic, folder: str, worker: Worker) -> None:
    """For each file of this worker's share, one of (video_id, vector) with the global features in `folder`, unless it is there."""
    network.eval()
    for path in parts.paths[worker.rank :: worker.world_size]:
        target = f"{folder}/{'-'.join(path.split('/')[-2:])}"
        if parts.fs.get_file_info(target).is_file:
            continue
        ids: list[str] = []
        vectors: list[np.ndarray] = []
        for inputs, _, names in batches(PartFiles(parts.fs, [path], [0]), settings, settings.batch_size):
            vectors += list(network(inputs.to(worker.device))[0].flatten(1).cpu().numpy())
            ids += names
        buffer = io.BytesIO()
        pq.write_table(pa.table({"video_id": pa.array(ids, tables.TEXT), "vector": pa.array(vectors, tables.VECTOR)}), buffer)
        write_whole(parts.fs, target, buffer.getvalue())


# --- batches --------------------------------------------------------------------------------------------------------------------


def batches(
    parts: PartFiles, settings: PrivatePublic, size: int, rng: np.random.Generator | None = None
) -> Iterator[tuple[Inputs, Tensor, list[str]]]:
    """Inputs, labels (int64, -1 for none) and video ids of `size` videos at a time; shuffled within groups of files with `rng`."""
    left: list[pa.Table] = []
    for start in range(0, len(parts.paths), GROUP_FILES):
        table = pa.concat_tables([*left, *parts.read(start)])
        order = rng.permutation(table.num_rows) if rng else np.arange(table.num_rows)
        last = start + GROUP_FILES >= len(parts.paths)
        whole = len(order) if last else len(order) - len(order) % size
        for first in range(0, whole, size):
            yield _batch(table.take(pa.array(order[first : min(first + size, whole)])), settings)
        left = [table.take(pa.array(order[whole:]))]


def _batch(table: pa.Table, settings: PrivatePublic) -> tuple[Inputs, Tensor, list[str]]:
    frames_shape, sound_shape = shapes(settings)
    frames, has_frames = _unpacked(table["frames"], np.dtype(np.uint8), frames_shape)
    sound, has_sound = _unpacked(table["sound"], np.dtype(np.float16), sound_shape)
    labels = torch.from_numpy(table["label"].fill_null(-1).to_numpy().astype(np.int64))
    return Inputs(frames, sound, has_frames, has_sound), labels, table["video_id"].to_pylist()


def _unpacked(column: pa.ChunkedArray, kind: np.dtype, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The stacked arrays, zeros where there is none, and the mask of those that are there."""
    values = np.zeros((len(column), *shape), kind)
    there = np.array([value.is_valid for value in column], dtype=bool)
    for row in np.flatnonzero(there):
        values[row] = np.frombuffer(column[int(row)].as_buffer(), kind).reshape(shape)
    return torch.from_numpy(values), torch.from_numpy(there)


# --- files ----------------------------------------------------------------------------------------------------------------------


def save_network(
    network: PrivatePublicNetwork, settings: PrivatePublic, classes: list[str], fs: pafs.FileSystem, folder: str
) -> None:
    """`network.json`, then `network.safetensors`: where that is, the network is whole."""
    facts = {"settings": dump(settings), "classes": classes}
    write_whole(fs, f"{folder}/{NETWORK}", json.dumps(facts, indent=1, ensure_ascii=False).encode())
    state = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    write_whole(fs, f"{folder}/{WEIGHTS}", safetensors.torch.save(state))


def load_network(fs: pafs.FileSystem, folder: str) -> tuple[PrivatePublicNetwork, list[str]]:
    """The network that `save_network` wrote, in evaluation mode, and its classes."""
    facts: dict[str, Any] = json.loads(read_whole(fs, f"{folder}/{NETWORK}"))
    settings = PrivatePublic.model_validate(facts["settings"] | {"weights": "none"})  # its weights are here
    network = PrivatePublicNetwork(settings, len(facts["classes"]))
    network.load_state_dict(safetensors.torch.load(read_whole(fs, f"{folder}/{WEIGHTS}")))
    return network.eval(), facts["classes"]
