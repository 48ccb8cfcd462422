"""Any torchvision classifier by its name, as a network from pixels to one vector of features.

Weights are torchvision's own (`DEFAULT`), a state dict on disk or in a store (a path), or random (`none`). Random networks are
the same everywhere: drawn from the seed, then with the statistics of their batch norms measured on one batch of seeded noise.
Without those a deep random ResNet doubles its variance in every block (resnet152 ends at 6e7); with them real frames come out
between 1 and a few tens (resnet18: 2.6, resnet152: 21), and still differ from one another.
"""

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import urlparse

import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from rayrec.config import ConfigError, ImageFeatures, MotionFeatures
from rayrec.tables import did_you_mean
from rayrec.workspace import open_filesystem

CALIBRATION_CLIPS = 8


@dataclass(frozen=True)
class Family:
    """The models of one torchvision module, and how one input of theirs is shaped."""

    setting: str  # its section of the config, for messages
    models: ModuleType
    input_shape: tuple[int, ...]  # uint8, colours last


class FeatureNetwork(nn.Module):
    """Pixels in, one vector each out; normalisation is inside. Works on pictures and on clips alike."""

    mean: Tensor
    std: Tensor

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


def build(family: Family, settings: ImageFeatures | MotionFeatures, seed: int) -> FeatureNetwork:
    """The network, in evaluation mode, on the CPU. Raises `ConfigError` for a model or weights that can't be had or don't fit."""
    known = list_models(module=family.models)
    if settings.model not in known:
        near = did_you_mean(settings.model, known)
        raise ConfigError(f"{family.setting}.model: torchvision has no such model as {settings.model!r}{near}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body, classifier = _body(family, settings)
        if settings.output == "pooled":
            body.set_submodule(classifier, nn.Identity())
        # Every torchvision weights entry carries the normalisation that its family was trained with.
        transform = get_model_weights(settings.model).DEFAULT.transforms()
        network = _colours_last(FeatureNetwork(body, transform.mean, transform.std).eval())
        _try(network, family, settings)
    return network


def _body(family: Family, settings: ImageFeatures | MotionFeatures) -> tuple[nn.Module, str]:
    """The torchvision model with its weights, and the name of its last layer."""
    if settings.weights == "DEFAULT":
        body = _pretrained(family, settings)
        return body, _classifier(body)
    # These two draw their first weights through SciPy, slowly, unless told not to; other models don't know the option.
    slow = {"init_weights": False} if settings.model in ("googlenet", "inception_v3") else {}
    body = get_model(settings.model, weights=None, **slow)
    classifier = _classifier(body)
    if settings.weights == "none":
        last = body.get_submodule(classifier)
        # Some families start their last layer at zero or near it; then every video would get the same logits.
        nn.init.kaiming_normal_(last.weight, nonlinearity="linear")
    else:
        _load(body, settings.weights, family)
    return body, classifier


def _classifier(body: nn.Module) -> str:
    """The name of the last layer that has weights: it maps pooled features to classes."""
    return [name for name, layer in body.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d)][-1]


def _pretrained(family: Family, settings: ImageFeatures | MotionFeatures) -> nn.Module:
    weights: WeightsEnum = get_model_weights(settings.model).DEFAULT
    try:
        return get_model(settings.model, weights=weights, progress=False)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
        raise ConfigError(
            f"{family.setting}.weights=DEFAULT: the weights of {settings.model} can't be loaded ({error}). Place {weights.url} at "
            f"{cached}, or set {family.setting}.weights to the path of a state dict, or to none for a random network"
        ) from error


def _load(body: nn.Module, path: str, family: Family) -> None:
    """Load a state dict (`.safetensors`, or what `torch.save` wrote) into the model; nothing in the file is executed."""
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
        body.load_state_dict(state)
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
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{family.setting}: {settings.model} can't take inputs of {family.input_shape}: {error}") from error
    if not output.isfinite().all():
        raise ConfigError(f"{family.setting}.weights={settings.weights}: {settings.model} puts out numbers that are not finite")


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
    count = CALIBRATION_CLIPS if time else max(8, min(32, 32 * 112**2 // (height * width)))
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
