"""Trains the private/public network on decoded part files, and computes global features with it.

Memory holds `GROUP_FILES` part files at a time, however many there are. Each worker takes its share of the files, whole, so that a
batch holds other videos with another number of workers: several train as good a network as one would, but not the same one. Within
a batch all is exact: each term is normalised by the videos of all workers, also in the last batches, which may be incomplete or
empty on some workers. The batch norms of `s3d` and `i3d` see one worker's videos; their running statistics are averaged.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rayrec import tables
from rayrec.config import PrivatePublic, dump
from rayrec.errors import RayrecError
from rayrec.features.private_public.inputs import shapes
from rayrec.features.private_public.network import Inputs, Losses, PrivatePublicNetwork, counts_of, losses
from rayrec.training.callbacks import NO_CALLBACK, Epoch, TrainingCallback
from rayrec.training.exchange import SINGLE, Worker, total
from rayrec.training.trainable import Trainable
from rayrec.training.trainer import CPU, Trainer
from rayrec.workspace.checkpoint import Checkpoint
from rayrec.workspace.files import from_json, read_whole, to_json, write_whole

GROUP_FILES = 8  # part files that are shuffled together
NETWORK, WEIGHTS = "network.json", "network.safetensors"
CHECKPOINT = "checkpoint.pt"
LOSS, ACCURACY = "held_out_loss", "held_out_accuracy"  # metrics of an epoch: cross-entropy, share of right classes


@dataclass(frozen=True)
class PartFiles:
    """Part files of rows of INPUTS, and the number of rows of each."""

    fs: pafs.FileSystem
    paths: list[str]
    rows: list[int]

    @classmethod
    def of(cls, fs: pafs.FileSystem, folder: str) -> "PartFiles":
        found = fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        paths = sorted(item.path for item in found if item.path.endswith(".parquet"))
        return cls(fs, paths, [pq.read_metadata(path, filesystem=fs).num_rows for path in paths])

    def taken(self, indices: np.ndarray) -> "PartFiles":
        return PartFiles(self.fs, [self.paths[index] for index in indices], [self.rows[index] for index in indices])

    def read(self, start: int) -> list[pa.Table]:
        """The tables of the group of files that begins at `start`."""
        return [pq.read_table(path, filesystem=self.fs) for path in self.paths[start : start + GROUP_FILES]]


def fit(
    network: PrivatePublicNetwork,
    train: PartFiles,
    held_out: PartFiles,
    settings: PrivatePublic,
    seed: int,
    device: torch.device = CPU,
    callback: TrainingCallback = NO_CALLBACK,
    worker: Worker = SINGLE,
    checkpoint: Checkpoint | None = None,
) -> list[Epoch]:
    """Train `network`, which is on `device`, in place until the held-out loss stops falling; leave its best weights in it.

    Raises `DivergedError` when the loss stops being finite, `CheckpointError` for a checkpoint of another network, and
    `RayrecError` where a worker would have no video to learn from, or no video is held out.
    """
    if len(train.paths) < worker.world_size or not held_out.paths:
        raise RayrecError(
            f"private_public: {sum(train.rows)} readable videos with a class, in {len(train.paths)} part files, to train "
            f"{worker.world_size} workers, and {sum(held_out.rows)} to hold out: that is too few; the `rejects` of `extract` "
            "say what can't be read; lower private_public.workers, or leave the section `private_public` out of the config"
        )
    trainer = Trainer(
        epochs=settings.epochs,
        seed=seed,
        patience=settings.patience + 1,  # so many epochs may pass; the next one ends the training
        device=device,
        worker=worker,
        callback=callback,
        checkpoint=checkpoint,
    )
    return trainer.fit(TrainableNetwork(network, train, held_out, settings, seed, device, worker))


@dataclass(frozen=True)
class Share:
    """A worker's videos of a batch."""

    inputs: Inputs
    labels: Tensor  # int64 [B], -1 for none
    counts: Tensor  # float32 [4], `counts_of` the whole batch


class TrainableNetwork(Trainable[Share]):
    """The network with the part files that it learns from and those that judge it."""

    terms = Losses._fields
    check_steps = 10  # a step takes seconds on a CPU

    def __init__(
        self,
        network: PrivatePublicNetwork,
        train: PartFiles,
        held_out: PartFiles,
        settings: PrivatePublic,
        seed: int,
        device: torch.device,
        worker: Worker,
    ) -> None:
        optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        super().__init__(network, optimizer)
        self.network, self.train, self.held_out, self.settings = network, train, held_out, settings
        self.seed, self.device, self.worker = seed, device, worker
        self.size = max(1, settings.batch_size // worker.world_size)  # of a share
        self.advice = f"lower private_public.learning_rate ({settings.learning_rate:g})"

    def steps(self, epoch: int) -> int:
        shares, _ = self._shares(epoch)
        return max(-(-sum(share.rows) // self.size) for share in shares)

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Share | None, int]]:
        shares, rng = self._shares(epoch)
        rows = np.array([sum(share.rows) for share in shares])
        mine = batches(shares[self.worker.rank], self.settings, self.size, rng, skip)
        for step in range(skip, self.steps(epoch)):
            examples = int((rows - step * self.size).clip(0, self.size).sum())
            inputs, labels, _ = next(mine, (None, None, None))
            if inputs is None or labels is None:  # others still have videos
                total(torch.zeros(4, device=self.device), self.worker)
                yield None, examples
            else:
                inputs, labels = inputs.to(self.device), labels.to(self.device)
                yield Share(inputs, labels, total(counts_of(inputs, labels), self.worker)), examples

    def losses(self, share: Share, examples: int) -> Sequence[Tensor]:
        return losses(self.network(share.inputs), share.inputs, share.labels, self.settings, share.counts)

    def validate(self) -> dict[str, float]:
        loss, accuracy = evaluate(self.network, self.held_out, self.settings, self.device, self.worker)
        return {LOSS: loss, ACCURACY: accuracy}

    def quality(self, epoch: Epoch) -> float:
        return -epoch.metrics[LOSS]

    def _shares(self, epoch: int) -> tuple[list[PartFiles], np.random.Generator]:
        """Each worker's files in the order of this epoch, the same on all workers, and what goes on drawing."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.train.paths))
        return [self.train.taken(order[rank :: self.worker.world_size]) for rank in range(self.worker.world_size)], rng


def report(epochs: list[Epoch], classes: int, videos: dict[str, int]) -> dict[str, Any]:
    """The results of a training as JSON values. The held-out videos also chose the epoch: their accuracy is a little too good."""
    best = min(epochs, key=lambda epoch: epoch.metrics[LOSS])
    figures = {"held_out_accuracy": best.metrics[ACCURACY], "chance": 1 / classes, "best_epoch": best.epoch}
    return {"videos": videos, "classes": classes} | figures | {"epochs": [epoch.to_json() for epoch in epochs]}


@torch.inference_mode()
def evaluate(
    network: PrivatePublicNetwork,
    held_out: PartFiles,
    settings: PrivatePublic,
    device: torch.device = CPU,
    worker: Worker = SINGLE,
) -> tuple[float, float]:
    """Cross-entropy and accuracy over the held-out videos of all workers."""
    network.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    share = held_out.taken(np.arange(len(held_out.paths))[worker.rank :: worker.world_size])
    for inputs, labels, _ in batches(share, settings, settings.batch_size):
        labels = labels.to(device)
        logits = network(inputs.to(device)).logits
        right = (logits.argmax(-1) == labels).sum()
        sums += torch.stack([cross_entropy(logits, labels, reduction="sum"), right, right.new_tensor(len(labels))])
    loss, right, count = total(sums, worker).tolist()
    return loss / max(count, 1), right / max(count, 1)


@torch.inference_mode()
def write_vectors(
    network: PrivatePublicNetwork, parts: PartFiles, settings: PrivatePublic, folder: str, device: torch.device, worker: Worker
) -> None:
    """Write (video_id, vector) with the global features into `folder`, one file for each of this worker's, unless it is there."""
    network.eval()
    for path in parts.paths[worker.rank :: worker.world_size]:
        target = f"{folder}/{'-'.join(path.split('/')[-2:])}"
        if parts.fs.get_file_info(target).is_file:
            continue
        ids: list[str] = []
        vectors: list[np.ndarray] = []
        for inputs, _, names in batches(PartFiles(parts.fs, [path], [0]), settings, settings.batch_size):
            vectors += list(network(inputs.to(device)).vectors.flatten(1).cpu().numpy())
            ids += names
        buffer = io.BytesIO()
        pq.write_table(pa.table({"video_id": pa.array(ids, tables.TEXT), "vector": pa.array(vectors, tables.VECTOR)}), buffer)
        write_whole(parts.fs, target, buffer.getvalue())


# --- batches --------------------------------------------------------------------------------------------------------------------


def batches(
    parts: PartFiles, settings: PrivatePublic, size: int, rng: np.random.Generator | None = None, skip: int = 0
) -> Iterator[tuple[Inputs, Tensor, list[str]]]:
    """Inputs, labels (int64, -1 for none) and video ids of `size` videos at a time, without the first `skip` batches.

    With `rng` the videos are shuffled within groups of files.
    """
    left: list[pa.Table] = []
    for start in range(0, len(parts.paths), GROUP_FILES):
        table = pa.concat_tables([*left, *parts.read(start)])
        order = rng.permutation(table.num_rows) if rng else np.arange(table.num_rows)
        last = start + GROUP_FILES >= len(parts.paths)
        whole = len(order) if last else len(order) - len(order) % size
        for first in range(0, whole, size):
            if skip:
                skip -= 1
            else:
                yield _batch(table.take(pa.array(order[first : min(first + size, whole)])), settings)
        left = [table.take(pa.array(order[whole:]))]


def _batch(table: pa.Table, settings: PrivatePublic) -> tuple[Inputs, Tensor, list[str]]:
    frames_shape, sound_shape = shapes(settings)
    frames, has_frames = _unpacked(table["frames"], np.dtype(np.uint8), frames_shape)
    sound, has_sound = _unpacked(table["sound"], np.dtype(np.float16), sound_shape)
    labels = torch.from_numpy(table["label"].fill_null(-1).to_numpy().astype(np.int64))
    return Inputs(frames, sound, has_frames, has_sound), labels, table["video_id"].to_pylist()


def _unpacked(column: pa.ChunkedArray, kind: np.dtype, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The stacked arrays, with zeros in place of null, and the mask of those that are not null."""
    values = np.zeros((len(column), *shape), kind)
    mask = np.array([value.is_valid for value in column], dtype=bool)
    for row in np.flatnonzero(mask):
        values[row] = np.frombuffer(column[int(row)].as_buffer(), kind).reshape(shape)
    return torch.from_numpy(values), torch.from_numpy(mask)


# --- files ----------------------------------------------------------------------------------------------------------------------


def save_network(
    network: PrivatePublicNetwork, settings: PrivatePublic, classes: list[str], fs: pafs.FileSystem, folder: str
) -> None:
    """Write `network.json`, then `network.safetensors`: where the second is, the network is complete."""
    facts = {"settings": dump(settings), "classes": classes}
    write_whole(fs, f"{folder}/{NETWORK}", to_json(facts, indent=1))
    state = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    write_whole(fs, f"{folder}/{WEIGHTS}", safetensors.torch.save(state))


def load_network(fs: pafs.FileSystem, folder: str) -> tuple[PrivatePublicNetwork, list[str]]:
    """The network that `save_network` wrote, in evaluation mode, and its classes."""
    facts: dict[str, Any] = from_json(read_whole(fs, f"{folder}/{NETWORK}"))
    settings = PrivatePublic.model_validate(facts["settings"] | {"weights": "none"})  # they are in the file
    network = PrivatePublicNetwork(settings, len(facts["classes"]))
    network.load_state_dict(safetensors.torch.load(read_whole(fs, f"{folder}/{WEIGHTS}")))
    return network.eval(), facts["classes"]
