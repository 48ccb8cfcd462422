"""The feature maps of covers: what each convolution stage of an image network gives, in a few channels and on a small grid.

A stage is what the network does at one resolution, and its maps are the output of the last layer of the stage, as in Lin et al.,
"Feature Pyramid Networks for Object Detection" (CVPR 2017), section 3. Its channels are reduced to their principal components, and
the grid holds the means of equal squares.

The components are those of noise with the spectrum of photographs, the same that calibrates random networks. So they follow from
the network and the seed: nothing has to be fitted on a catalog, kept or published, and a video that comes later gets numbers of the
same meaning. `docs/lab-notes.md` has how much of the variance of real covers they keep beside other choices.

Shapes: N pictures, S stages, C channels that are kept, G the side of the grid.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from rayrec.config import ConfigError, Maps
from rayrec.features.networks import FeatureNetwork, noise_pictures
from rayrec.features.reduction import principal
from rayrec.tables import MapShape

NOISE_PICTURES = 32  # on which the components are fitted


@dataclass(frozen=True)
class Stage:
    """A stage of a network."""

    layer: str  # whose output its maps are, by its name in the network
    side: int  # of its maps, in numbers
    channels: int
    kernel: int  # the width of its last convolution that looks at more than one place; 1 if there is none


class StageMaps(nn.Module):
    """Takes the maps of all stages while a network runs. Raises `ConfigError` for a network that has none, or too few channels."""

    def __init__(self, network: FeatureNetwork, settings: Maps, seed: int) -> None:
        super().__init__()
        self.grid = settings.grid
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(seed)
            pictures: list[Tensor] = []
            while sum(map(len, pictures)) < NOISE_PICTURES:
                pictures.append(noise_pictures((network.size, network.size, 3)))
            self.stages = stages_of(network, pictures[0][:1])
            if not self.stages or min(stage.channels for stage in self.stages) < settings.channels:
                most = min((stage.channels for stage in self.stages), default=0)
                raise ConfigError(
                    f"features.image.maps.channels={settings.channels}: the smallest stage of the network has {most} channels; "
                    + ("set it to that or less" if most else "choose a convolutional network, or set features.image.maps=null")
                )
            found = [self.pooled(network, batch)[1] for batch in pictures]
        for number, stage in enumerate(self.stages):
            values = torch.cat([batch[number] for batch in found]).permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
            components = principal(np.cov(values, rowvar=False), settings.channels)[1]
            if len(components) < settings.channels:
                raise ConfigError(f"features.image.maps: stage {stage.layer!r} of the network gives the same for all pictures")
            self.register_buffer(f"components_{number}", torch.from_numpy(components).float())
        kernels = tuple(min(stage.kernel, self.grid) for stage in self.stages)
        self.shape = MapShape(settings.channels, self.grid, kernels, network.size / network.resize)

    def forward(self, network: FeatureNetwork, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures uint8 [N, H, W, 3] -> the vectors of the network [N, D], and the maps float32 [N, S * C * G * G]."""
        vectors, pooled = self.pooled(network, pixels)
        maps = [torch.einsum("kc,ncgh->nkgh", getattr(self, f"components_{number}"), map_) for number, map_ in enumerate(pooled)]
        return vectors, torch.stack(maps, 1).flatten(1)

    def pooled(self, network: FeatureNetwork, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The vectors, and all channels of each stage on the grid [N, channels, G, G]."""
        found: dict[str, Tensor] = {}

        def taking(name: str) -> Any:
            def take(module: nn.Module, inputs: Any, output: Tensor) -> None:
                found[name] = adaptive_avg_pool2d(output.float(), self.grid)

            return take

        handles = [network.body.get_submodule(stage.layer).register_forward_hook(taking(stage.layer)) for stage in self.stages]
        try:
            vectors = network(pixels)
        finally:
            for handle in handles:
                handle.remove()
        return vectors, [found[stage.layer] for stage in self.stages]


class WithMaps(nn.Module):
    """A network whose vectors are followed by its maps: float32 [N, D + S * C * G * G]."""

    def __init__(self, network: FeatureNetwork, maps: StageMaps) -> None:
        super().__init__()
        self.network, self.maps = network, maps

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat(self.maps(self.network, pixels), 1)


# --- which stages there are ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Call:
    """A layer that has been run once."""

    name: str
    layer: nn.Module
    around: list["_Call"]  # the layers within which it was run, the outermost first
    shape: tuple[int, ...] = ()
    times: list["_Call"] = field(default_factory=list)  # all calls of the same layer

    @property
    def side(self) -> int:
        """Of its maps; 0 if it gives none, or none larger than one place."""
        return self.shape[-1] if len(self.shape) == 4 and self.shape[-1] == self.shape[-2] > 1 else 0

    @property
    def counts(self) -> bool:
        """Whether it is no part of a block that goes on at another resolution, such as the first layer of a block with a stride."""
        return all(outer.side in (0, self.side) or isinstance(outer.layer, nn.Sequential) for outer in self.around)


def stages_of(network: FeatureNetwork, picture: Tensor) -> list[Stage]:
    """The stages of a network, the largest maps first, as a picture uint8 [1, H, W, 3] shows them."""
    with _recorded(network.body) as calls:
        network(picture)
    found = []
    for side in sorted({call.side for call in calls if call.side}, reverse=True):
        here = [call for call in calls if call.side == side and call.counts]
        convolutions = [call.layer for call in here if isinstance(call.layer, nn.Conv2d)]
        once = [call for call in here if len(call.times) == 1]
        if convolutions and once:
            widths = [max(layer.kernel_size) for layer in convolutions]
            kernel = next((width for width in reversed(widths) if width > 1), 1)
            found.append(Stage(once[-1].name, side, once[-1].shape[1], kernel))
    return found


@contextmanager
def _recorded(body: nn.Module) -> Iterator[list[_Call]]:
    """The calls of all layers within `body` while the block runs, in the order in which they end."""
    ended, running, times = list[_Call](), list[_Call](), dict[str, list[_Call]]()

    def before(name: str) -> Any:
        def begin(layer: nn.Module, inputs: Any) -> None:
            call = _Call(name, layer, [*running], times=times.setdefault(name, []))
            call.times.append(call)
            running.append(call)

        return begin

    def after(layer: nn.Module, inputs: Any, output: Any) -> None:
        call = running.pop()
        call.shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        ended.append(call)

    handles = []
    for name, layer in body.named_modules():
        if name:
            handles += [layer.register_forward_pre_hook(before(name)), layer.register_forward_hook(after)]
    try:
        yield ended
    finally:
        for handle in handles:
            handle.remove()
