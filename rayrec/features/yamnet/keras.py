"""Turns YAMNet's file of Keras (yamnet.h5) into the arrays that `conversion.converted` makes. It needs h5py, and no TensorFlow.

Layers are named as in TensorFlow's model garden (https://github.com/tensorflow/models, research/audioset/yamnet): `layer1/conv`,
then `layer2/depthwise_conv` and `layer2/pointwise_conv` up to `layer14`, each followed by a batch norm of its own (`.../bn`),
and a dense layer behind them.
"""

import io
from collections.abc import Mapping

import h5py
import numpy as np

from rayrec.features.yamnet.conversion import CLASSIFIER

EPSILON = 1e-4  # of YAMNet's batch norms; a file of weights alone does not say it
KERNEL, DEPTHWISE = "kernel:0", "depthwise_kernel:0"


class KerasError(ValueError):
    """The file is no HDF5 file of YAMNet's weights, or it is damaged; the message says why."""


def converted(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of the network, float32, by name: those of batch norms become part of the convolutions before them.

    Raises `KerasError` for a file that is damaged, or that holds another kind of network.
    """
    weights = _read(data)
    layers = 1
    while f"layer{layers + 1}/depthwise_conv/{DEPTHWISE}" in weights:
        layers += 1
    found = _convolution("layers.0", weights, f"layer1/conv/{KERNEL}", (3, 2, 0, 1))
    for number in range(2, layers + 1):
        # Keras has the channels last, and of a depthwise convolution the inputs before the (single) outputs of each.
        depthwise, pointwise = f"layer{number}/depthwise_conv/{DEPTHWISE}", f"layer{number}/pointwise_conv/{KERNEL}"
        found |= _convolution(f"layers.{2 * number - 3}", weights, depthwise, (2, 3, 0, 1))
        found |= _convolution(f"layers.{2 * number - 2}", weights, pointwise, (3, 2, 0, 1))
    return found | _dense(weights) | {"ceiling": np.array([np.inf], np.float32)}


def _read(data: bytes) -> dict[str, np.ndarray]:
    """The arrays by the names that Keras gave its variables. Links are not followed, and nothing outside the file is read."""
    found = dict[str, np.ndarray]()

    def take(path: str, item: h5py.Group | h5py.Dataset) -> None:
        if not isinstance(item, h5py.Dataset) or item.dtype.kind != "f":
            return
        if item.external or item.is_virtual or item.nbytes > len(data):
            raise KerasError(f"{path} is not stored in the file as a whole")
        found[_variable(path)] = np.asarray(item[()], np.float32)

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            file.visititems(take)
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise KerasError(f"it is damaged, or no HDF5 file ({error})") from error
    return found


def _variable(path: str) -> str:
    """`layer1/conv/kernel:0` for `layer1/conv/layer1/conv/kernel:0`: a layer's group holds its variables under their full names."""
    parts = path.removeprefix("model_weights/").split("/")
    half = (len(parts) - 1) // 2
    return "/".join(parts[half:]) if len(parts) % 2 and parts[:half] == parts[half:-1] else "/".join(parts)


def _convolution(name: str, weights: Mapping[str, np.ndarray], kernel: str, axes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The weights [outputs, inputs / groups, height, width] and biases of a convolution with its batch norm."""
    norm = kernel.rpartition("/")[0] + "/bn/"
    array = _of(weights, kernel, 4).transpose(axes)
    mean, variance, beta = (_of(weights, f"{norm}{part}:0", 1) for part in ("moving_mean", "moving_variance", "beta"))
    gamma = weights.get(f"{norm}gamma:0", np.ones_like(mean))  # YAMNet's own batch norms have none
    if not len(array) == len(mean) == len(variance) == len(beta) == len(gamma):
        raise KerasError(f"{kernel} has {len(array)} outputs, and its batch norm has others")
    factor = gamma / np.sqrt(variance + EPSILON)
    return {
        f"{name}.weight": np.ascontiguousarray(array * factor[:, None, None, None], np.float32),
        f"{name}.bias": np.asarray(beta - mean * factor, np.float32),
    }


def _dense(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The classifier: the only layer with a matrix. Its name changed from `logits` to Keras's own, `dense`."""
    matrices = [name for name, array in weights.items() if name.endswith(f"/{KERNEL}") and array.ndim == 2]
    if len(matrices) != 1:
        raise KerasError(f"it has {len(matrices)} dense layers, where YAMNet has one")
    kernel = matrices[0]
    bias = _of(weights, kernel.removesuffix(KERNEL) + "bias:0", 1)
    return {f"{CLASSIFIER}.weight": np.ascontiguousarray(weights[kernel].T), f"{CLASSIFIER}.bias": bias}


def _of(weights: Mapping[str, np.ndarray], name: str, dimensions: int) -> np.ndarray:
    if name not in weights:
        raise KerasError(f"it has no {name}, so it is not a YAMNet as TensorFlow's model garden names its layers")
    if weights[name].ndim != dimensions:
        raise KerasError(f"{name} has the shape {weights[name].shape}")
    return weights[name]
