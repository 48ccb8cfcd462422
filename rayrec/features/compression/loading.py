"""From a network to its compressed file, and back."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rayrec import __version__
from rayrec.config import Compression, ConfigError, ImageFeatures
from rayrec.features.compression import file
from rayrec.features.compression.file import CompressedFileError, Contents
from rayrec.features.compression.fitting import contents
from rayrec.features.compression.int8 import Range, observe, quantised
from rayrec.features.networks import FeatureNetwork

FLOAT_BYTES = 4


def packed(network: FeatureNetwork, settings: ImageFeatures, weights: str, pixels: Iterable[Tensor]) -> bytes:
    """The file of a network whose weights are shared. `weights` says in words which it had before.

    The ranges of its activations are measured on batches of pictures, uint8 [N, H, W, 3]; a network that can't be traced has none.
    """
    shared, plain = contents(network)
    ranges: dict[str, Range] | None
    try:
        ranges = observe(network, pixels)
    except ValueError:
        ranges = None
    numbers = sum(math.prod(tensor.shape) for tensor in shared.values()) + sum(array.size for array in plain.values())
    facts = {
        "rayrec": __version__,
        "model": settings.model,
        "output": settings.output,
        "size": network.size,
        "resize": network.resize,
        "weights": weights,
        "original_bytes": FLOAT_BYTES * numbers,
        "activations": ranges,
    }
    return file.write(facts, shared, plain)


def decompressed(network: FeatureNetwork, settings: ImageFeatures, compression: Compression) -> FeatureNetwork:
    """The network with the weights of the configured file, in 8-bit integers if the config says so.

    Raises `ConfigError` for a file that is damaged, or of another network.
    """
    data = file.read_configured(compression)
    setting = f"features.image.compression.file={compression.file}"
    same = {"model": settings.model, "output": settings.output, "size": network.size, "resize": network.resize}
    try:
        facts = file.read_facts(data)
        for name, here in same.items():
            if facts.get(name) != here:
                raise CompressedFileError(f"it was made for features.image.{name}={facts.get(name)}, not for {here}")
        unpacked(network, data)
    except CompressedFileError as error:
        raise ConfigError(f"{setting}: {error}; `rayrec compress CONFIG` makes a new one") from error
    if compression.int8:
        network = _quantised(network, facts.get("activations"), setting)
    with torch.inference_mode():
        output = network(torch.full((1, network.size, network.size, 3), 127, dtype=torch.uint8))
    if not output.isfinite().all():
        raise ConfigError(f"{setting}: the outputs of the network are not finite; `rayrec compress CONFIG` makes a new file")
    return network


def unpacked(network: FeatureNetwork, data: bytes) -> Contents:
    """Give a network the weights of a file, in place. Raises `CompressedFileError` if it is damaged, or of another network."""
    state = network.body.state_dict()
    found = file.read(data, {name: tuple(tensor.shape) for name, tensor in state.items() if tensor.is_floating_point()})
    with torch.no_grad():
        for name, array in found.tensors.items():
            state[name].copy_(torch.from_numpy(array))
    return found


def _quantised(network: FeatureNetwork, ranges: Any, setting: str) -> FeatureNetwork:
    try:
        if ranges is None:
            raise ValueError("the file has no ranges of activations")
        return quantised(network, {name: (float(low), float(high)) for name, (low, high) in ranges.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{setting} can't be run in 8-bit integers: {error}; set features.image.compression.int8=false"
        ) from error
