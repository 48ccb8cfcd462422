"""The layers of a network that have weights, and the two forms that compression gives these: pruned, and shared."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.nn.utils import parametrize

from rayrec.features.compression.codebooks import Codebook, cells

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


class Masked(nn.Module):
    """Weights of which some stay zero, whatever training does."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weights: Tensor) -> Tensor:
        return weights * self.mask


class Shared(nn.Module):
    """Weights that are zero or one of a few values, the codebook (Han et al., 2016, section 3).

    Training changes both: the gradient of a value is the sum of those of its weights, and behind each shared weight there is one
    that follows its own gradient and may so come to take another value (straight-through; Bengio, Léonard and Courville, 2013).
    """

    prices: Tensor

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        zero = codebook.values == 0
        self.codebook = nn.Parameter(torch.from_numpy(codebook.values[~zero]))
        self.register_buffer("prices", torch.from_numpy(np.concatenate([codebook.prices[zero], codebook.prices[~zero]])))

    def values(self) -> Tensor:
        """Zero, and the codebook."""
        return torch.cat([self.codebook.new_zeros(1), self.codebook])

    def indices(self, weights: Tensor) -> Tensor:
        """The place among the values for each weight."""
        values, order = self.values().detach().sort()
        used, limits = (torch.from_numpy(one) for one in cells(values.cpu().numpy(), self.prices[order].cpu().numpy()))
        return order[used.to(weights.device)][torch.bucketize(weights.contiguous(), limits.to(weights), right=True)]

    def forward(self, weights: Tensor) -> Tensor:
        shared = embedding(self.indices(weights.detach()), self.values()[:, None]).squeeze(-1)
        return shared + (weights - weights.detach())


def layers_of(body: nn.Module) -> dict[str, Layer]:
    """The convolutions and linear layers, by their names."""
    return {name: layer for name, layer in body.named_modules() if isinstance(layer, Layer)}


def mask_of(weights: Tensor, keep: float) -> Tensor:
    """Which weights stay when only this share of them is kept, those of the largest magnitude; at least one stays."""
    count = max(1, round(keep * weights.numel()))
    order = weights.detach().abs().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(weights.numel(), dtype=weights.dtype, device=weights.device)
    mask[order[:count]] = 1
    return mask.view_as(weights)


def prune(layer: Layer, keep: float) -> None:
    """Set the other weights to zero, where they stay."""
    parametrize.register_parametrization(layer, "weight", Masked(mask_of(layer.weight, keep)))


def settle(layer: Layer) -> None:
    """Make plain weights of pruned or shared ones; those that are zero are no longer held there."""
    parametrize.remove_parametrizations(layer, "weight")


def multiply_adds(body: nn.Module, run: Callable[[], Any]) -> dict[str, int]:
    """The multiplications with additions of each layer for one input, when `run` sends one through the body."""
    found = dict[str, int]()

    def count(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            weights = layer.weight
            assert isinstance(weights, Tensor)
            found[name] = found.get(name, 0) + output[0].numel() * weights[0].numel()

        return hook

    handles = [layer.register_forward_hook(count(name)) for name, layer in layers_of(body).items()]
    try:
        with torch.inference_mode():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def with_weights(layer: Layer, weights: Tensor) -> Iterator[None]:
    """The layer has other weights while the block runs."""
    before = layer.weight.data
    layer.weight.data = weights
    try:
        yield
    finally:
        layer.weight.data = before
