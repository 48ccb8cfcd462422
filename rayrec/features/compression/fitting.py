"""Makes a network small, as in Deep Compression (Han et al., 2016): prune, train, share weights, train on.

What is trained imitates the original network on the user's pictures: the loss is the squared distance between the outputs of both,
in units of the variance of the original's outputs (its `distortion`). Where pictures have classes and `objective` asks for it, a
linear classifier behind the outputs is trained beside them, and its cross-entropy is added. Batch norms and dropout work as in
evaluation, so that the statistics of the original network stay, which were measured on far more pictures.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

from rayrec.config import Compression, LayerCompression
from rayrec.features.compression.codebooks import cluster
from rayrec.features.compression.file import SharedWeights
from rayrec.features.compression.layers import Layer, Shared, layers_of, mask_of, prune, with_weights
from rayrec.features.compression.pictures import Pictures
from rayrec.features.networks import FeatureNetwork
from rayrec.training.callbacks import NO_CALLBACK, Epoch, TrainingCallback
from rayrec.training.trainable import Trainable
from rayrec.training.trainer import CPU, Trainer
from rayrec.workspace.checkpoint import Checkpoint

BATCH = 64  # pictures, where nothing is trained
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # kept shares at which a layer is tried out
SAMPLED = 64  # pictures on which it is
WARM_UP = 25  # steps
DISTORTION, ACCURACY = "held_out_distortion", "held_out_accuracy"


@dataclass(frozen=True)
class Place:
    """Where and for whom a training runs, in one process."""

    device: torch.device = CPU
    callback: TrainingCallback = NO_CALLBACK
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class Task:
    """What compressed networks are fitted by: the original, the pictures to learn from and those that judge, and the settings."""

    original: FeatureNetwork
    train: Pictures
    held_out: Pictures
    settings: Compression
    seed: int

    @property
    def classes(self) -> int:
        """Of the classifier that is trained beside; 0 for none."""
        return len(self.train.classes) if self.settings.objective == "labels" else 0


# --- the four steps -------------------------------------------------------------------------------------------------------------


def kept_shares(network: FeatureNetwork, task: Task) -> dict[str, float]:
    """The share of its weights that each layer keeps: that of the settings for its name, or what `targets` gives it."""
    layers, settings = layers_of(network.body), task.settings
    given = {name: own.keep for name in layers if (own := settings_of(name, settings)).keep is not None}
    free = {name: layer for name, layer in layers.items() if name not in given}
    if settings.targets == "uniform" or settings.keep == 1:
        return dict.fromkeys(free, settings.keep) | given
    return _equal_harm(sensitivities(network, free, task), free, settings.keep) | given


def pruned(network: FeatureNetwork, shares: Mapping[str, float], task: Task, place: Place) -> list[Epoch]:
    """Remove the smallest weights of each layer, in place, and train the others. Where all stay, nothing is done."""
    if min(shares.values()) == 1:
        return []
    for name, layer in layers_of(network.body).items():
        prune(layer, shares[name])
    epochs = fit(network, task, task.settings.epochs, task.settings.learning_rate, place)
    for layer in layers_of(network.body).values():
        parametrize.remove_parametrizations(layer, "weight")
    return epochs


def shared(network: FeatureNetwork, task: Task, place: Place) -> list[Epoch]:
    """Let the weights of each layer share a few values, in place, and train both."""
    settings = task.settings
    for name, layer in layers_of(network.body).items():
        own = settings_of(name, settings)
        bit_cost = settings.bit_cost if own.bit_cost is None else own.bit_cost
        share(layer, own.clusters or settings.clusters, bit_cost)
    return fit(network, task, task.settings.sharing_epochs, task.settings.sharing_rate, place)


def contents(network: FeatureNetwork) -> tuple[dict[str, SharedWeights], dict[str, np.ndarray]]:
    """The tensors of a network whose weights are shared: those weights, and the others that are no whole numbers."""
    layers = layers_of(network.body)
    found = {f"{name}.weight": _stored(layer) for name, layer in layers.items()}
    others = {
        name: tensor.detach().cpu().numpy()
        for name, tensor in network.body.state_dict().items()
        if tensor.is_floating_point() and ".parametrizations." not in f".{name}"
    }
    return found, others


# --- targets --------------------------------------------------------------------------------------------------------------------


def settings_of(name: str, settings: Compression) -> LayerCompression:
    """What the settings say of one layer: the first pattern that fits its name."""
    return next((own for pattern, own in settings.layers.items() if fnmatch(name, pattern)), LayerCompression())


@torch.inference_mode()
def sensitivities(network: FeatureNetwork, layers: Mapping[str, Layer], task: Task) -> dict[str, list[float]]:
    """The distortion of the outputs when one layer alone keeps each of the shares `LEVELS` of its weights."""
    pixels = torch.from_numpy(task.train.pixels[:SAMPLED]).to(network.device)
    expected = network(pixels)
    scale = _spread(expected)
    found = dict[str, list[float]]()
    for name, layer in layers.items():
        found[name] = []
        for level in LEVELS:
            with with_weights(layer, layer.weight * mask_of(layer.weight, level)):
                found[name].append(float(((network(pixels) - expected) ** 2).sum(1).mean() / scale))
    return found


def _equal_harm(harm: Mapping[str, Sequence[float]], layers: Mapping[str, Layer], keep: float) -> dict[str, float]:
    """Each layer keeps the smallest share whose distortion is at most a limit, the same for all layers: the largest with which
    at least `keep` of all weights stay.
    """
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    shares = dict.fromkeys(layers, LEVELS[-1])
    for limit in sorted({value for values in harm.values() for value in values}):
        now = {
            name: next((level for level, value in zip(LEVELS, values, strict=True) if value <= limit), LEVELS[-1])
            for name, values in harm.items()
        }
        if sum(now[name] * size for name, size in sizes.items()) < keep * sum(sizes.values()):
            break
        shares = now
    return shares


# --- shared weights -------------------------------------------------------------------------------------------------------------


def share(layer: Layer, clusters: int, bit_cost: float) -> None:
    """Let the weights of a layer be zero or one of so many other values."""
    codebook = cluster(layer.weight.detach().cpu().numpy().ravel(), clusters, bit_cost)
    parametrize.register_parametrization(layer, "weight", Shared(codebook).to(layer.weight.device))


@torch.no_grad()
def _stored(layer: Layer) -> SharedWeights:
    parametrizations: Any = layer.parametrizations
    module, weights = parametrizations["weight"][0], parametrizations["weight"].original
    indices = module.indices(weights).cpu().numpy().ravel()
    places = np.flatnonzero(indices)
    return SharedWeights(tuple(weights.shape), module.codebook.cpu().numpy(), places, (indices[places] - 1).astype(np.uint8))


# --- training -------------------------------------------------------------------------------------------------------------------


def fit(network: FeatureNetwork, task: Task, epochs: int, rate: float, place: Place) -> list[Epoch]:
    """Train a network that is to do what the original does, in place; the weights of its best epoch stay."""
    if not epochs:
        return []
    trainer = Trainer(
        epochs=epochs,
        seed=task.seed,
        device=place.device,
        callback=place.callback,
        checkpoint=place.checkpoint,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        student = Student(network, task.classes)
    return trainer.fit(Imitation(student.to(place.device), task, epochs, rate, place))


class Student(nn.Module):
    """The network that is trained and, where there are classes, a linear classifier behind it."""

    def __init__(self, network: FeatureNetwork, classes: int) -> None:
        super().__init__()
        self.network = network
        with torch.inference_mode():
            size = network(torch.zeros(1, network.size, network.size, 3, dtype=torch.uint8, device=network.device)).shape[1]
        self.classifier = nn.Linear(size, classes) if classes else None

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


class Imitation(Trainable[tuple[Tensor, Tensor | None]]):
    """A student that learns from the original's outputs for changed pictures: shifted, mirrored and mixed with one another.

    Mixtures make a few thousand pictures go further (Beyer et al., 2022): the original says what it sees in them.
    """

    terms = ("loss", "distortion")
    check_steps = 10

    def __init__(self, student: Student, task: Task, epochs: int, rate: float, place: Place) -> None:
        super().__init__(student, torch.optim.Adam(student.parameters(), lr=rate))
        self.student, self.task, self.device = student, task, place.device
        self.size, self.epochs, self.rate = task.settings.batch_size, epochs, rate
        self.advice = f"lower features.image.compression's learning_rate and sharing_rate ({rate:g} was one of them)"
        self.scale = _spread(outputs(task.original, task.train, place.device))
        self.expected = outputs(task.original, task.held_out, place.device)
        self.unit = (self.expected.shape[1] / self.scale) ** 0.5  # gives what the classifier reads a deviation of about 1

    def steps(self, epoch: int) -> int:
        return -(-len(self.task.train) // self.size)

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[tuple[Tensor, Tensor | None] | None, int]]:
        order = np.random.default_rng((self.task.seed, epoch)).permutation(len(self.task.train))
        for step in range(skip, self.steps(epoch)):
            rows = order[step * self.size : (step + 1) * self.size]
            batch = self.task.train.take(rows)
            pixels = changed(batch.pixels, np.random.default_rng((self.task.seed, epoch, step)), mixed=not self.task.classes)
            labels = torch.from_numpy(batch.labels).to(self.device) if self.task.classes and batch.labels is not None else None
            self._set_rate((epoch - 1) * self.steps(epoch) + step)
            yield (torch.from_numpy(pixels).to(self.device), labels), len(rows)

    def _set_rate(self, step: int) -> None:
        """Learn slowly at first, and less and less from then on (Loshchilov and Hutter, 2017: half a cosine)."""
        done = step / (self.epochs * self.steps(1))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * done)) / 2

    def losses(self, share: tuple[Tensor, Tensor | None], examples: int) -> Sequence[Tensor]:
        pixels, labels = share
        with torch.no_grad():
            expected = self.task.original(pixels)
        found = self.student.network(pixels)
        distortion = ((found - expected) ** 2).sum() / (self.scale * examples)
        if labels is None or self.student.classifier is None:
            return distortion, distortion
        return distortion + cross_entropy(
            self.student.classifier(self.unit * found), labels, reduction="sum"
        ) / examples, distortion

    def validate(self) -> dict[str, float]:
        self.student.eval()
        found = outputs(self.student.network, self.task.held_out, self.device)
        metrics = {DISTORTION: distortion(found, self.expected)}
        if self.student.classifier is not None and self.task.held_out.labels is not None:
            with torch.inference_mode():
                right = (
                    self.student.classifier(self.unit * found.to(self.device)).argmax(1).cpu().numpy() == self.task.held_out.labels
                )
            metrics[ACCURACY] = float(right.mean())
        return metrics

    def quality(self, epoch: Epoch) -> float:
        return epoch.metrics.get(ACCURACY, -epoch.metrics[DISTORTION])


@torch.inference_mode()
def outputs(network: nn.Module, pictures: Pictures, device: torch.device = CPU) -> Tensor:
    """float32 [N, D], on the CPU."""
    pieces = (torch.from_numpy(pictures.pixels[at : at + BATCH]) for at in range(0, len(pictures), BATCH))
    return torch.cat([network(piece.to(device)).cpu() for piece in pieces])


def distortion(found: Tensor, expected: Tensor) -> float:
    """The mean squared distance between outputs [N, D], in units of the variance of the expected ones."""
    return float(((found - expected) ** 2).sum(1).mean() / _spread(expected))


def changed(pixels: np.ndarray, rng: np.random.Generator, mixed: bool) -> np.ndarray:
    """Pictures uint8 [N, S, S, 3], each shifted by up to an eighth of its side and mirrored at random; half of them `mixed`."""
    count, side = len(pixels), pixels.shape[1]
    reach = side // 8
    padded = np.pad(pixels, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    tops, lefts = rng.integers(0, 2 * reach + 1, (2, count))
    found = np.stack([one[top : top + side, left : left + side] for one, top, left in zip(padded, tops, lefts, strict=True)])
    mirrored = rng.random(count) < 0.5
    found[mirrored] = found[mirrored, :, ::-1]
    if mixed:
        weights = np.where(rng.random(count) < 0.5, rng.random(count), 1.0)[:, None, None, None].astype(np.float32)
        found = np.rint(weights * found + (1 - weights) * found[rng.permutation(count)]).astype(np.uint8)
    return found


def _spread(expected: Tensor) -> float:
    """The mean squared distance of outputs [N, D] from their mean."""
    return max(float(((expected - expected.mean(0)) ** 2).sum(1).mean()), 1e-12)
