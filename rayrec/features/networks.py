"""Any torchvision classifier by its name, and `c3d`, as a network from pixels to one vector of features.

Weights are torchvision's own (`DEFAULT`), a state dict on disk or in a store (a path), or random (`none`). Random networks are
the same everywhere: drawn from the seed, then with the statistics of their batch norms measured on one batch of seeded noise.
Without those a deep random ResNet doubles its variance in every block (resnet152 ends at 6e7); with them real frames come out
between 1 and a few tens (resnet18: 2.6, resnet152: 21), and still differ from one another.
"""

import io
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from rayrec.config import ConfigError, ImageFeatures, MotionFeatures
from rayrec.errors import did_you_mean
from rayrec.features import c3d
from rayrec.workspace.files import open_filesystem

CALIBRATION_CLIPS = 8
# googlenet's and inception_v3's second classifiers: in training they would answer with tuples, and they are never asked.
AUXILIARY = ("aux1", "aux2", "AuxLogits")
FRAMES_AT_ONCE = 256  # what goes through a network in one call

Arrays = Sequence[np.ndarray | None]


@dataclass(frozen=True)
class Family:
    """The models of one torchvision module, and how one input of theirs is shaped."""

    setting: str  # its section of the config, for messages
    models: ModuleType
    input_shape: tuple[int, ...]  # uint8, colours last


@dataclass(frozen=True)
class Transform:
    """What a model wants its pictures to be: the short side resized, a square cut from the centre, colours normalised."""

    size: int
    resize: int
    mean: list[float]
    std: list[float]


def own_transform(model: str) -> Transform:
    """The one that the model's weights were trained with; it is the same for random weights.

    Some video models squeeze every video to one shape, such as 128 x 171; here pictures keep their proportions.
    """
    if model == "c3d":
        return Transform(c3d.SIZE, c3d.RESIZE, c3d.MEAN, c3d.STD)
    preset = get_model_weights(model).DEFAULT.transforms()
    return Transform(preset.crop_size[0], min(preset.resize_size), preset.mean, preset.std)


class FeatureNetwork(nn.Module):
    """Pixels in, one vector each out; normalisation is inside. Works on pictures and on clips alike."""

    mean: Tensor
    std: Tensor
    size: int  # what the pictures should be cut to, see `Transform`
    resize: int

    def __init__(self, body: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] or [N, T, H, W, 3] -> float32 [N, D]."""
        normalised = (pixels.float() / 255 - self.mean) / self.std
        return self.body(normalised.movedim(-1, 1)).flatten(1).float()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def sized_network(setting: str, models: ModuleType, settings: ImageFeatures | MotionFeatures, seed: int) -> FeatureNetwork:
    """`build` at the size that the settings give, or else at the model's own; `size` and `resize` of the network say which."""
    _check_known(setting, models, settings.model)
    own = own_transform(settings.model)
    size = settings.size or own.size
    resize = settings.resize or round(size * own.resize / own.size)
    if resize < size:
        raise ConfigError(f"{setting}.resize={resize} is less than size={size}: no such square can be cut out")
    time = (settings.frames,) if isinstance(settings, MotionFeatures) else ()
    network = build(Family(setting, models, (*time, size, size, 3)), settings, seed)
    network.size, network.resize = size, resize
    return network


def build(family: Family, settings: ImageFeatures | MotionFeatures, seed: int) -> FeatureNetwork:
    """The network, in evaluation mode, on the CPU. Raises `ConfigError` for a model or weights that can't be had or don't fit."""
    _check_known(family.setting, family.models, settings.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transform = own_transform(settings.model)
        network = _colours_last(FeatureNetwork(_body(family, settings), transform.mean, transform.std).eval())
        _try(network, family, settings)
    return network


def means(network: FeatureNetwork, stacks: Arrays) -> list[np.ndarray | None]:
    """float32 [D] of each stack of inputs (uint8 [n, ...]): the mean of their n vectors. None stays None.

    The inputs of all stacks go through the network together, in even pieces of at most `FRAMES_AT_ONCE` frames: memory stays
    bounded, and a GPU, which works in bfloat16, is never handed a lone picture while it has others to do.
    """
    there = [stack for stack in stacks if stack is not None]
    if not there:
        return [None] * len(stacks)
    inputs = [one for stack in there for one in stack]
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=network.device.type == "cuda"):
        vectors = torch.cat([network(_on_device(piece, network.device)) for piece in pieces(inputs)]).cpu().numpy()
    parts = iter(np.split(vectors, np.cumsum([len(stack) for stack in there])[:-1]))
    return [None if stack is None else next(parts).mean(axis=0) for stack in stacks]


def pieces(inputs: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Pictures or clips in as few pieces of at most `FRAMES_AT_ONCE` frames as will do, of sizes that differ by one at most."""
    frames = len(inputs[0]) if inputs[0].ndim == 4 else 1
    count = math.ceil(len(inputs) / max(1, FRAMES_AT_ONCE // frames))
    ends = [len(inputs) * place // count for place in range(count + 1)]
    return [inputs[start:end] for start, end in pairwise(ends)]


def _on_device(piece: list[np.ndarray], device: torch.device) -> Tensor:
    """Stacked, as bytes; to a GPU the copy goes on while it computes, for which the memory must be pinned."""
    on_gpu = device.type == "cuda"
    batch = torch.empty((len(piece), *piece[0].shape), dtype=torch.uint8, pin_memory=on_gpu)
    np.stack(piece, out=batch.numpy())
    return batch.to(device, non_blocking=on_gpu)


def _check_known(setting: str, models: ModuleType, model: str) -> None:
    known = [*list_models(module=models), *(["c3d"] if models is torchvision.models.video else [])]
    if model not in known:
        raise ConfigError(f"{setting}.model: there is no such model as {model!r}{did_you_mean(model, known)}")


def _body(family: Family, settings: ImageFeatures | MotionFeatures) -> nn.Module:
    """The model with its weights, without its last layer when the output of the one before is wanted."""
    body = _pretrained(family, settings) if settings.weights == "DEFAULT" else _untrained(family, settings)
    classifier = _classifier(body)
    if settings.weights == "none":
        # Some families start their last layer at zero or near it; then every video would get the same logits.
        nn.init.kaiming_normal_(body.get_parameter(f"{classifier}.weight"), nonlinearity="linear")
    if settings.output == "pooled":
        body.set_submodule(classifier, nn.Identity())
    if settings.weights not in ("DEFAULT", "none"):
        _load(body, settings.weights, family, without=classifier if settings.output == "pooled" else None)
    for auxiliary in AUXILIARY:
        if getattr(body, auxiliary, None) is not None:
            setattr(body, auxiliary, None)
            setattr(body, "aux_logits", False)  # noqa: B010 - torch types an attribute of a module as a tensor
    return body


def _untrained(family: Family, settings: ImageFeatures | MotionFeatures) -> nn.Module:
    if settings.model == "c3d":
        return c3d.C3D()
    side = family.input_shape[-2]
    options: dict[str, object] = {}
    if settings.model in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # they would be drawn through SciPy, slowly
    # These are built for one size of input.
    if settings.model.startswith("vit_"):
        options["image_size"] = side
    elif settings.model.startswith("maxvit"):
        options["input_size"] = (side, side)
    try:
        return get_model(settings.model, weights=None, **options)
    except (ValueError, AssertionError) as error:
        raise _misfit(family, settings, error) from error


def _classifier(body: nn.Module) -> str:
    """The name of the last layer that has weights: it maps pooled features to classes."""
    return [name for name, layer in body.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d)][-1]


def _pretrained(family: Family, settings: ImageFeatures | MotionFeatures) -> nn.Module:
    if settings.model == "c3d":
        raise ConfigError(
            f"{family.setting}.weights=DEFAULT: torchvision ships no weights of c3d. Set {family.setting}.weights to the path of a "
            "state dict with the layers conv1, conv2, conv3a ... conv5b, fc6, fc7, fc8 (c3d-pytorch's Sports-1M weights are one), "
            f"or to none for a random network; or set {family.setting}.model to r3d_18, which has weights"
        )
    weights: WeightsEnum = get_model_weights(settings.model).DEFAULT
    try:
        return get_model(settings.model, weights=weights, progress=False)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
        raise ConfigError(
            f"{family.setting}.weights=DEFAULT: the weights of {settings.model} can't be loaded ({error}). Place {weights.url} at "
            f"{cached}, or set {family.setting}.weights to the path of a state dict, or to none for a random network"
        ) from error


def _load(body: nn.Module, path: str, family: Family, without: str | None) -> None:
    """Load a state dict (`.safetensors`, or what `torch.save` wrote) into the model; nothing in the file is executed.

    The layer `without` is not loaded: then it does not matter how many classes the file's network told apart.
    """
    try:
        filesystem, inside = open_filesystem(path)
        with filesystem.open_input_file(inside) as file:
            data = file.read()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ConfigError(
            f"{family.setting}.weights: {path} can't be opened ({error}); give DEFAULT, the path of a state dict, or none for a "
            "random network"
        ) from error
    try:
        if path.endswith(".safetensors"):
            state = safetensors.torch.load(data)
        else:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        body.load_state_dict({name: value for name, value in state.items() if name.rpartition(".")[0] != without})
    except Exception as error:  # torch.load answers a file of another kind with errors of every kind
        raise ConfigError(f"{family.setting}.weights: {path} is not a state dict of this model: {str(error)[:400]}") from error


def _try(network: FeatureNetwork, family: Family, settings: ImageFeatures | MotionFeatures) -> None:
    """Run one batch of noise: it calibrates a random network, and shows that the shape fits and the weights are sound."""
    noise = _noise(family.input_shape)
    try:
        with torch.inference_mode():
            if settings.weights == "none":
                _calibrate(network, noise)
            output = network(noise[:1])
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise _misfit(family, settings, error) from error
    if not output.isfinite().all():
        raise ConfigError(f"{family.setting}.weights={settings.weights}: {settings.model} puts out numbers that are not finite")


def _misfit(family: Family, settings: ImageFeatures | MotionFeatures, error: Exception) -> ConfigError:
    reason = str(error).splitlines()[0].rstrip(".")
    clips = " in clips of 16" if family.models is torchvision.models.video else ""
    return ConfigError(
        f"{family.setting}: {settings.model} can't take inputs of {family.input_shape}: {reason}. Its own are frames of "
        f"{own_transform(settings.model).size} pixels{clips}"
    )


def _colours_last(network: FeatureNetwork) -> FeatureNetwork:
    """The same weights in the memory layout that the pixels come in: convolutions take 10 to 20 % less time."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters():
        if weight.dim() in layouts:
            weight.data = weight.data.contiguous(memory_format=layouts[weight.dim()])
    return network


def _noise(shape: tuple[int, ...]) -> Tensor:
    """uint8 [N, *shape] of fake pictures or drifting clips, in random colours, brightness and contrast.

    They are noise of every scale, the finer the weaker, as in photographs.
    """
    *time, height, width, colours = shape
    least, most = (2, CALIBRATION_CLIPS) if time else (8, 32)
    count = max(least, min(most, most * 112**2 // (height * width)))
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
    """Set the running statistics of all batch norms from one batch; every other layer stays in evaluation mode."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    if norms:
        network(noise)
    network.eval()
