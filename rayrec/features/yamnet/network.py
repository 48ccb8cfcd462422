"""YAMNet: MobileNet v1 on patches of a log-mel spectrogram, trained on AudioSet's 521 classes of sounds (docs/papers.md).

A quantised file is computed as TensorFlow Lite computes it: whole numbers go through each layer, and what comes out is rounded to
the 256 steps that the file gives for it. A float32 adds whole numbers exactly up to 2^24, so this takes hardly more time than a
network of floats. The rounding belongs to such a network: without it, its answers are others.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import conv2d

from rayrec.config import AudioFeatures, ConfigError
from rayrec.features.networks import Arrays, means, read_weights
from rayrec.features.padding import same_padded
from rayrec.features.yamnet.conversion import CLASSIFIER, INPUT, POOLED, SCORES

# (stride, channels) of each block: a convolution of each channel alone, then one across the channels.
BLOCKS = ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024), (1, 1024))
STEM = 32  # channels
LOW, HIGH = -128, 127  # of int8
UNLIMITED = (-np.inf, np.inf)


def yamnet(settings: AudioFeatures) -> "YAMNet":
    """The network, in evaluation mode, on the CPU. Raises `ConfigError` for weights that can't be read or are not YAMNet's."""
    key, path = "features.audio.weights", str(settings.weights)
    data = read_weights(key, path, "set it to the path of a file that `rayrec convert` has made")
    try:
        return YAMNet(safetensors.torch.load(data), settings.output).eval()
    except (SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{key}: {path} is not a YAMNet in safetensors ({error}); "
            "`rayrec convert FILE FILE.safetensors` makes one of a file of TensorFlow Lite or Keras"
        ) from error


def sound_features(network: "YAMNet", sounds: Arrays) -> Arrays:
    """float32 [D] for each sound (float32 [P, 96, 64], its patches): the mean over the patches. None stays None."""
    return means(network, sounds)


class YAMNet(nn.Module):
    """float32 [N, 96, 64] -> the scores of the classes [N, 521], or the input of the classifier [N, 1024] (`output: embedding`).

    `state` is what `conversion.converted` makes. Raises `KeyError` for a state that lacks something, and `ValueError` for one with
    layers of other shapes.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        output: str = "scores",
        blocks: Sequence[tuple[int, int]] = BLOCKS,
        stem: int = STEM,
    ) -> None:
        super().__init__()
        self.output, self.read, self.given = output, _Rounding.of(state, INPUT), _Rounding.of(state, SCORES)
        limits = 0.0, float(state["ceiling"])
        layers, channels = [_Layer(state, "layers.0", (stem, 1, 3, 3), self.read, limits, stride=2)], stem
        for stride, outputs in blocks:
            for shape, step, groups in (((channels, 1, 3, 3), stride, channels), ((outputs, channels, 1, 1), 1, 1)):
                layers.append(_Layer(state, f"layers.{len(layers)}", shape, layers[-1].after, limits, step, groups))
            channels = outputs
        self.layers = nn.Sequential(*layers)
        self.before_mean, self.pooled = layers[-1].after, _Rounding.of(state, POOLED)
        self.classifier = _Layer(state, CLASSIFIER, (len(state[f"{CLASSIFIER}.bias"]), channels), self.pooled, UNLIMITED)

    def forward(self, patches: Tensor) -> Tensor:
        with torch.autocast(patches.device.type, enabled=False):  # whole numbers up to 2^24 need a float32
            x = self.layers(_stored(patches.unsqueeze(1), self.read))
            x = self._mean(x)
            if self.output == "embedding":
                return _meant(x, self.pooled).flatten(1)
            return self._scores(self.classifier(x)).flatten(1)

    def _mean(self, x: Tensor) -> Tensor:
        if self.pooled is None or self.before_mean is None:
            return x.mean((2, 3), keepdim=True)
        factor = self.before_mean.scale / (self.pooled.scale * (x.shape[2] * x.shape[3]))
        return self.pooled.within((x.sum((2, 3), keepdim=True) * float(factor)).round())

    def _scores(self, logits: Tensor) -> Tensor:
        scores = _meant(logits, self.classifier.after).sigmoid()
        return _meant(_stored(scores, self.given), self.given)


class _Rounding:
    """How a quantised network keeps real numbers: as whole ones of int8, which are zero at `zero_point`, times `scale`.

    Here they are kept without the zero point: from `low` to `high`, and 0 for 0.
    """

    def __init__(self, scale: Tensor, zero_point: Tensor) -> None:
        self.scale = np.float32(scale.item())
        self.low, self.high = LOW - int(zero_point), HIGH - int(zero_point)

    @classmethod
    def of(cls, state: Mapping[str, Tensor], name: str) -> "_Rounding | None":
        """None in a network of floats."""
        return cls(state[f"{name}.scale"], state[f"{name}.zero_point"]) if f"{name}.scale" in state else None

    def within(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


def _stored(x: Tensor, rounding: _Rounding | None) -> Tensor:
    """Real numbers as the network keeps them."""
    return x if rounding is None else rounding.within((x * float(1 / rounding.scale)).round())


def _meant(x: Tensor, rounding: _Rounding | None) -> Tensor:
    """The real numbers that the network means."""
    return x if rounding is None else x * float(rounding.scale)


class _Layer(nn.Module):
    """A convolution with its bias, its limits and its rounding. The classifier is one, too; it reads a single place."""

    def __init__(
        self,
        state: Mapping[str, Tensor],
        name: str,
        shape: tuple[int, ...],
        before: _Rounding | None,
        limits: tuple[float, float],
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        if (tuple(weight.shape), tuple(bias.shape)) != (shape, shape[:1]):
            raise ValueError(f"{name} has weights of the shape {tuple(weight.shape)}, and not {shape}")
        self.stride, self.groups, self.after = stride, groups, _Rounding.of(state, name)
        if len({f"{name}.weight_scale" in state, before is not None, self.after is not None}) == 2:
            raise ValueError(f"{name} is quantised only in part")
        self.weight = _constant(weight.float().reshape(*shape, *[1] * (4 - len(shape))))
        self.bias = _constant(bias.float())
        self.factor: nn.Parameter | None = None
        self.low, self.high = limits
        if before is not None and self.after is not None:
            scale, low, high = self.after.scale, self.after.low, self.after.high
            self.factor = _constant((state[f"{name}.weight_scale"] * float(before.scale) / float(scale)).reshape(-1, 1, 1))
            self.low, self.high = (float(np.clip(np.round(limit / scale), low, high)) for limit in limits)

    def forward(self, x: Tensor) -> Tensor:
        x = conv2d(same_padded(x, self.weight.shape[-1], self.stride), self.weight, self.bias, self.stride, groups=self.groups)
        if self.factor is not None:
            x = (x * self.factor).round()
        return x.clamp(self.low, self.high)


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
