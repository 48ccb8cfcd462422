"""The 3D CNNs that the private/public network is made of, each in two parts: a stem, which reads one modality, and a trunk.

`i3d` (Carreira & Zisserman, 2017) is the text's choice. torchvision has its separable descendant `s3d`; with each pair of a spatial
and a temporal convolution made one convolution again, the rest of the two is the same. Only `s3d` has trained weights here.
"""

import copy
from collections.abc import Callable, Sequence

import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.video.s3d import TemporalSeparableConv
from torchvision.ops.misc import Conv3dNormActivation

from rayrec.config import MotionFeatures, PrivatePublic
from rayrec.features.motion import MOTION_MODELS
from rayrec.features.networks import build

CHANNELS = (16, 32, 64, 128)  # of the small body's layers
INCEPTION_CHANNELS = 1024
S3D_INPUT = (32, 224, 224, 3)
# Of running statistics. torchvision's .001 would leave them far behind the weights of a network that sees some hundred batches.
MOMENTUM = 0.1


class Trunk(nn.Module):
    """Layers over space and time, the mean over all positions, and fully connected layers of the given sizes.

    With several modalities, each has batch norms of its own (Chang et al., 2019): the films of one are unlike those of another, and
    their statistics over a batch of both would fit neither. All other weights are shared.
    """

    def __init__(self, layers: nn.Sequential, features: int, sizes: Sequence[int], modalities: int = 1) -> None:
        super().__init__()
        self.layers = layers
        if modalities > 1:
            for name, norm in [item for item in layers.named_modules() if isinstance(item[1], _BatchNorm)]:
                layers.set_submodule(name, _NormOfEach(norm, modalities))
        self.connected = nn.ModuleList(nn.Linear(*pair) for pair in zip([features, *sizes], sizes, strict=False))

    def forward(self, x: Tensor, modality: int = 0) -> list[Tensor]:
        """[B, channels, T, H, W] -> the outputs of the fully connected layers, each before its ReLU; the last is the vector."""
        for module in self.layers.modules():
            if isinstance(module, _NormOfEach):
                module.modality = modality
        outputs = [self.layers(x).mean((2, 3, 4))]
        for number, layer in enumerate(self.connected):
            outputs.append(layer(outputs[-1].relu() if number else outputs[-1]))
        return outputs[1:]


class _NormOfEach(nn.ModuleList):
    """A batch norm for each modality; the trunk sets which one reads."""

    def __init__(self, norm: nn.Module, modalities: int) -> None:
        super().__init__([norm, *(copy.deepcopy(norm) for _ in range(1, modalities))])
        self.modality = 0

    def forward(self, x: Tensor) -> Tensor:
        return self[self.modality](x)


class _ThreeChannels(nn.Module):
    """Repeats a film of one channel, so that weights that were trained on pictures remain useful."""

    def forward(self, film: Tensor) -> Tensor:
        return film.expand(-1, 3, -1, -1, -1)


class Bodies:
    """Makes stems and trunks as the settings say. Raises `ConfigError` for weights that can't be loaded or don't fit."""

    def __init__(self, settings: PrivatePublic, seed: int) -> None:
        self.settings = settings
        self.sizes = [*settings.hidden, settings.branch_size]
        self.features = CHANNELS[-1] if settings.body == "small" else INCEPTION_CHANNELS
        self._layers: Callable[[int], nn.Sequential] = small_body if settings.body == "small" else _inception(settings, seed)

    def stem(self, channels: int) -> nn.Module:
        """The first convolution of a film of so many channels, with its norm and ReLU."""
        first = self._layers(channels)[0]
        return first if channels == 3 or self.settings.body == "small" else nn.Sequential(_ThreeChannels(), first)

    def trunk(self, modalities: int = 1) -> Trunk:
        """All that follows a stem."""
        return Trunk(self._layers(3)[1:], self.features, self.sizes, modalities)


def small_body(channels: int) -> nn.Sequential:
    """Four 3x3x3 convolutions, each of which halves time, height and width.

    It has group norms, not batch norms, so that the vectors of a video do not depend on the other videos of its batch, which may be
    small on each of many workers.
    """
    layers = [
        nn.Sequential(nn.Conv3d(before, after, 3, stride=2, padding=1, bias=False), nn.GroupNorm(8, after), nn.ReLU())
        for before, after in zip((channels, *CHANNELS), CHANNELS, strict=False)
    ]
    return nn.Sequential(*layers)


def _inception(settings: PrivatePublic, seed: int) -> Callable[[int], nn.Sequential]:
    """Gives the layers of s3d or i3d: the same trained weights each time, or other random ones."""
    if settings.weights == "none":
        return lambda channels: _random_inception(separable=settings.body == "s3d")
    wanted = MotionFeatures(model="s3d", weights=settings.weights, output="pooled", frames=S3D_INPUT[0], size=S3D_INPUT[1])
    trained = build(MOTION_MODELS, "private_public", wanted, S3D_INPUT, seed).body.get_submodule("features")
    assert isinstance(trained, nn.Sequential)
    return lambda channels: copy.deepcopy(_with_momentum(trained))


def _random_inception(separable: bool) -> nn.Sequential:
    layers = torchvision.models.video.s3d().features
    for name, pair in [item for item in layers.named_modules() if isinstance(item[1], TemporalSeparableConv)] * (not separable):
        space, norm = pair[0][0], pair[0][1]
        layers.set_submodule(
            name,
            Conv3dNormActivation(
                space.in_channels,
                space.out_channels,
                kernel_size=space.kernel_size[1],
                stride=space.stride[1],
                norm_layer=lambda channels, eps=norm.eps: nn.BatchNorm3d(channels, eps),
            ),
        )
    return _with_momentum(layers)


def _with_momentum(layers: nn.Sequential) -> nn.Sequential:
    for module in layers.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = MOMENTUM
    return layers
