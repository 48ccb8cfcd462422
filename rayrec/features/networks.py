"""Builds a network from pixels to one vector of features out of any classifier, by its name. `image` and `motion` say which exist.

The weights are trained ones (`DEFAULT`: torchvision's, or those of a package), a state dict on disk or in a store (a path), or
random (`none`). A random network is the same on every machine: its weights are drawn from the seed, and the statistics of its batch
norms are then measured on one batch of seeded noise. Without these statistics, a deep random ResNet doubles its variance in every
block, and the outputs of resnet152 reach 6e7. With them the outputs for real frames lie between 1 and a few tens (resnet18: 2.6,
resnet152: 21), and still differ from frame to frame.
"""

import io
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from types import ModuleType
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from rayrec.config import ConfigError, ImageFeatures, MotionFeatures
from rayrec.errors import did_you_mean
from rayrec.features.packaged import PackagedFile
from rayrec.workspace.files import open_filesystem

FRAMES_AT_ONCE = 256  # the most that go through a network in one call
CALIBRATION_CLIPS = 8

Arrays = Sequence[np.ndarray | None]
Settings = ImageFeatures | MotionFeatures


@dataclass(frozen=True)
class Transform:
    """How a model expects its pictures: the short side resized, a square cropped from the centre, the colours normalised."""

    size: int
    resize: int
    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class OwnModel:
    """A classifier that torchvision lacks."""

    make: Callable[[], nn.Module]
    transform: Transform
    weights: PackagedFile | None = None  # what `weights: DEFAULT` means
    weights_hint: str = ""  # what to set instead, where there are none


@dataclass(frozen=True)
class Family:
    """The classifiers of one torchvision module, and what is peculiar to building them."""

    models: ModuleType
    own: Mapping[str, OwnModel] = field(default_factory=dict)  # further classifiers, by name
    options: Callable[[str, int], dict[str, object]] = lambda model, size: {}  # constructor arguments, by model and input size
    prepare: Callable[[nn.Module], None] = lambda body: None  # changes a model that has its weights
    hint: str = ""  # what its inputs are, for messages

    def check(self, setting: str, model: str) -> None:
        """Raises `ConfigError`, which names `setting`, for a model that the family does not have."""
        known = [*list_models(module=self.models), *self.own]
        if model not in known:
            raise ConfigError(f"{setting}.model: there is no such model as {model!r}{did_you_mean(model, known)}")

    def transform(self, model: str) -> Transform:
        """The transform that the model's weights were trained with; random weights use it too.

        Some video models squeeze every video to one shape, such as 128 x 171; here pictures keep their proportions.
        """
        if model in self.own:
            return self.own[model].transform
        preset = get_model_weights(model).DEFAULT.transforms()
        return Transform(preset.crop_size[0], min(preset.resize_size), preset.mean, preset.std)


class FeatureNetwork(nn.Module):
    """Turns pictures or clips into one vector each. It normalises the colours itself."""

    mean: Tensor
    std: Tensor
    size: int  # what the pictures should be cropped to, see `Transform`
    resize: int

    def __init__(self, body: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.body = body
        self.maps: nn.Module | None = None  # `maps.StageMaps`, where the feature maps of covers are kept
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] or [N, T, H, W, 3] -> float32 [N, D]."""
        return self.body(self.normalised(pixels)).flatten(1).float()

    def normalised(self, pixels: Tensor) -> Tensor:
        """What the body reads: float32 [N, 3, H, W] or [N, 3, T, H, W]."""
        return ((pixels.float() / 255 - self.mean) / self.std).movedim(-1, 1)

    @property
    def device(self) -> torch.device:
        return self.mean.device


def sized_network(family: Family, setting: str, settings: Settings, seed: int) -> FeatureNetwork:
    """`build` at the size that the settings give, or else at the model's own size; the network's `size` and `resize` say which.

    `setting` is the section of the config, for messages.
    """
    family.check(setting, settings.model)
    own = family.transform(settings.model)
    size = settings.size or own.size
    resize = settings.resize or round(size * own.resize / own.size)
    if resize < size:
        raise ConfigError(f"{setting}.resize={resize} is less than size={size}: no such square can be cropped")
    frames = (settings.frames,) if isinstance(settings, MotionFeatures) else ()
    network = build(family, setting, settings, (*frames, size, size, 3), seed)
    network.size, network.resize = size, resize
    return network


def build(family: Family, setting: str, settings: Settings, input_shape: tuple[int, ...], seed: int) -> FeatureNetwork:
    """The network for inputs uint8 [N, *input_shape], in evaluation mode, on the CPU.

    Raises `ConfigError`, which names `setting`, for a model or weights that can't be loaded or don't fit.
    """
    family.check(setting, settings.model)
    builder = _Builder(family, setting, settings, input_shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transform = family.transform(settings.model)
        network = _channels_last(FeatureNetwork(builder.body(), transform.mean, transform.std).eval())
        builder.try_out(network)
    return network


def means(network: nn.Module, stacks: Arrays) -> list[np.ndarray | None]:
    """float32 [D] for each stack of inputs [n, ...], all of one type: the mean of their n vectors. None stays None.

    The inputs of all stacks go through the network together, in even pieces of at most `FRAMES_AT_ONCE` frames. Memory stays
    bounded, and a GPU, which works in bfloat16, never gets a single picture while there are others to do.
    """
    present = [stack for stack in stacks if stack is not None]
    if not present:
        return [None] * len(stacks)
    inputs = [one for stack in present for one in stack]
    device = next(chain(network.parameters(), network.buffers())).device  # a network in integers has buffers alone
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        vectors = torch.cat([network(_on_device(piece, device)) for piece in pieces(inputs)]).cpu().numpy()
    parts = iter(np.split(vectors, np.cumsum([len(stack) for stack in present])[:-1]))
    return [None if stack is None else next(parts).mean(axis=0) for stack in stacks]


def pieces(inputs: list[np.ndarray]) -> list[list[np.ndarray]]:
    """The pictures or clips in the fewest pieces of at most `FRAMES_AT_ONCE` frames, whose sizes differ by one at most."""
    frames = len(inputs[0]) if inputs[0].ndim == 4 else 1
    count = math.ceil(len(inputs) / max(1, FRAMES_AT_ONCE // frames))
    ends = [len(inputs) * index // count for index in range(count + 1)]
    return [inputs[start:end] for start, end in pairwise(ends)]


def read_weights(key: str, path: str, advice: str) -> bytes:
    """A file of weights, on disk or in a store. Raises `ConfigError` with the key and the advice if it can't be read."""
    try:
        filesystem, inside = open_filesystem(path)
        with filesystem.open_input_file(inside) as file:
            return file.read()
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        raise ConfigError(f"{key}: {path} can't be opened ({error}); {advice}") from error


def _on_device(piece: list[np.ndarray], device: torch.device) -> Tensor:
    """The inputs stacked. A GPU computes while they are copied, for which the memory must be pinned."""
    on_gpu = device.type == "cuda"
    kind = torch.from_numpy(np.empty(0, piece[0].dtype)).dtype
    batch = torch.empty((len(piece), *piece[0].shape), dtype=kind, pin_memory=on_gpu)
    np.stack(piece, out=batch.numpy())
    return batch.to(device, non_blocking=on_gpu)


@dataclass(frozen=True)
class _Builder:
    """The steps of `build`, and what their messages need."""

    family: Family
    setting: str
    settings: Settings
    input_shape: tuple[int, ...]

    def body(self) -> nn.Module:
        """The model with its weights; without its last layer when the output of the layer before is wanted."""
        settings = self.settings
        body = self._pretrained() if settings.weights == "DEFAULT" else self._untrained()
        classifier = _classifier(body)
        if settings.weights == "none":
            # Some families start their last layer at zero or near it; then every video would get the same logits.
            nn.init.kaiming_normal_(body.get_parameter(f"{classifier}.weight"), nonlinearity="linear")
        if settings.output == "pooled":
            body.set_submodule(classifier, nn.Identity())
        if settings.weights not in ("DEFAULT", "none"):
            self._load(body, without=classifier if settings.output == "pooled" else None)
        self.family.prepare(body)
        return body

    def try_out(self, network: FeatureNetwork) -> None:
        """Run one batch of noise. It calibrates a random network, and shows whether the shape fits and the weights are sound."""
        noise = noise_pictures(self.input_shape)
        try:
            with torch.inference_mode():
                if self.settings.weights == "none":
                    _calibrate(network, noise)
                output = network(noise[:1])
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            raise self._misfit(error) from error
        if not output.isfinite().all():
            weights = f"{self.setting}.weights={self.settings.weights}"
            raise ConfigError(f"{weights}: the outputs of {self.settings.model} are not finite; choose other weights")

    def _untrained(self) -> nn.Module:
        model = self.settings.model
        if model in self.family.own:
            return self.family.own[model].make()
        try:
            return get_model(model, weights=None, **self.family.options(model, self.input_shape[-2]))
        except (ValueError, AssertionError) as error:
            raise self._misfit(error) from error

    def _pretrained(self) -> nn.Module:
        model, key = self.settings.model, f"{self.setting}.weights"
        if model in self.family.own:
            return self._packaged(self.family.own[model], f"{key}=DEFAULT")
        weights: WeightsEnum = get_model_weights(model).DEFAULT
        try:
            return get_model(model, weights=weights, progress=False)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
            raise ConfigError(
                f"{key}=DEFAULT: the weights of {model} can't be loaded ({error}). Place {weights.url} at {cached}, or set {key} "
                "to the path of a state dict, or to none for a random network"
            ) from error

    def _packaged(self, own: OwnModel, setting: str) -> nn.Module:
        if own.weights is None:
            hint = own.weights_hint.format(setting=self.setting)
            raise ConfigError(f"{setting}: torchvision ships no weights of {self.settings.model}. {hint}")
        body = own.make()
        body.load_state_dict(torch.load(io.BytesIO(own.weights.read(setting)), map_location="cpu", weights_only=True))
        return body

    def _load(self, body: nn.Module, without: str | None) -> None:
        """Load a state dict (`.safetensors`, or what `torch.save` wrote) into the model. Nothing in the file is executed.

        The layer `without` is not loaded, so that the number of classes of the file's network does not matter.
        """
        path, key = self.settings.weights, f"{self.setting}.weights"
        data = read_weights(key, path, "set it to DEFAULT, to the path of a state dict, or to none for a random network")
        try:
            if path.endswith(".safetensors"):
                state = safetensors.torch.load(data)
            else:
                state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            body.load_state_dict({name: value for name, value in state.items() if name.rpartition(".")[0] != without})
        except Exception as error:  # torch.load raises errors of every kind for files of other formats
            raise ConfigError(f"{key}: {path} is not a state dict of this model: {str(error)[:400]}") from error

    def _misfit(self, error: Exception) -> ConfigError:
        reason, model = str(error).splitlines()[0].rstrip("."), self.settings.model
        expected = f"{self.family.hint} of {self.family.transform(model).size} pixels"
        return ConfigError(f"{self.setting}: {model} can't take inputs of {self.input_shape}: {reason}. It expects {expected}")


def _classifier(body: nn.Module) -> str:
    """The name of the last layer that has weights; it maps pooled features to classes."""
    return [name for name, layer in body.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d)][-1]


def _channels_last(network: FeatureNetwork) -> FeatureNetwork:
    """The same weights in the memory layout of the pixels, in which convolutions take 10 to 20 % less time."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters():
        if weight.dim() in layouts:
            weight.data = weight.data.contiguous(memory_format=layouts[weight.dim()])
    return network


def noise_pictures(shape: tuple[int, ...]) -> Tensor:
    """uint8 [N, *shape]: fake pictures or drifting clips of random colours, brightness and contrast.

    They are sums of noise of every scale, weaker the finer it is, as in photographs.
    """
    *time, height, width, colours = shape
    fewest, most = (2, CALIBRATION_CLIPS) if time else (8, 32)
    count = max(fewest, min(most, most * 112**2 // (height * width)))
    noise = torch.zeros(count, colours, height, width)
    side = 2
    while side <= min(height, width):
        grain = torch.randn(count, colours, side, side) + torch.randn(count, 1, side, side)
        noise += nn.functional.interpolate(grain, size=(height, width), mode="bilinear") / side**0.7
        side *= 2
    contrast, brightness = 60 * torch.rand(count, 1, 1, 1), 128 + 40 * torch.randn(count, colours, 1, 1)
    pictures = (brightness + contrast * noise / noise.std((1, 2, 3), keepdim=True)).clamp(0, 255).to(torch.uint8).movedim(1, -1)
    return torch.stack([pictures.roll(step, dims=2) for step in range(time[0])], dim=1) if time else pictures


def _calibrate(network: nn.Module, noise: Tensor) -> None:
    """Set the running statistics of all batch norms from one batch. Every other layer stays in evaluation mode."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    if norms:
        network(noise)
    network.eval()
