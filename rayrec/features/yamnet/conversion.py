"""Turns YAMNet's file of TensorFlow Lite into safetensors, which `features.audio.weights` names. It does without torch.

The weights stay as they are: float32, or int8 with the scale of each channel. A quantised file also says how each step rounds what
it computes; these scales are kept, since the network was made to work with them.
"""

import numpy as np

from rayrec.features.yamnet.tflite import (
    CONV_2D,
    DEPTHWISE_CONV_2D,
    FULLY_CONNECTED,
    LOGISTIC,
    RELU,
    RELU6,
    Operator,
    Tensor,
    TfliteError,
    read_operators,
)

CLASSIFIER = "classifier"
INPUT, POOLED, SCORES = "input", "pooled", "scores"  # what a quantised network rounds beside the outputs of its layers


def converted(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of the network in a TensorFlow Lite file, by name. `network.YAMNet` says what they are.

    What comes before the first convolution (a file may also compute the spectrogram) is left out. Raises `TfliteError` for a file
    that is damaged, or that holds another kind of network.
    """
    operators = read_operators(data)
    kinds = [operator.kind for operator in operators]
    if CONV_2D not in kinds:
        raise TfliteError("it has no convolution, so it is not YAMNet")
    operators = operators[kinds.index(CONV_2D) :]
    convolutions = [operator for operator in operators if operator.kind in (CONV_2D, DEPTHWISE_CONV_2D)]
    dense, scores = (_only(operators, kind, name) for kind, name in ((FULLY_CONNECTED, "dense layer"), (LOGISTIC, "sigmoid")))
    found = dict[str, np.ndarray]()
    for number, operator in enumerate(convolutions):
        found |= _layer(f"layers.{number}", operator)
    found |= _layer(CLASSIFIER, dense)
    for name, tensor in ((INPUT, convolutions[0].inputs[0]), (POOLED, dense.inputs[0]), (SCORES, scores.outputs[0])):
        found |= _rounding(name, tensor)
    activations = {operator.activation for operator in convolutions}
    if activations not in ({RELU}, {RELU6}):
        raise TfliteError("its convolutions are not all followed by a ReLU, or all by a ReLU6")
    found["ceiling"] = np.array(6 if activations == {RELU6} else np.inf, np.float32)
    return {name: np.atleast_1d(value).copy() for name, value in found.items()}


def _only(operators: list[Operator], kind: int, name: str) -> Operator:
    found = [operator for operator in operators if operator.kind == kind]
    if len(found) != 1:
        raise TfliteError(f"it has {len(found)} operators of the kind `{name}`, where YAMNet has one")
    return found[0]


def _layer(name: str, operator: Operator) -> dict[str, np.ndarray]:
    """The weights [outputs, inputs / groups, height, width] of a convolution, or [outputs, inputs], its biases and its scales."""
    _, weights, biases = [*operator.inputs, None, None][:3]
    if weights is None or biases is None or weights.values is None or biases.values is None:
        raise TfliteError(f"{name} has no weights of a type that can be read (float32 or int8)")
    # TensorFlow has the channels last, and of a depthwise convolution the outputs there.
    axes = {CONV_2D: (0, 3, 1, 2), DEPTHWISE_CONV_2D: (3, 0, 1, 2), FULLY_CONNECTED: (0, 1)}[operator.kind]
    if weights.values.ndim != len(axes):
        raise TfliteError(f"{name} has weights of the shape {weights.values.shape}")
    found = {f"{name}.weight": weights.values.transpose(axes), f"{name}.bias": biases.values}
    if len(weights.scale):
        scales = np.broadcast_to(weights.scale, len(weights.scale) if len(weights.scale) > 1 else weights.values.shape[0])
        found[f"{name}.weight_scale"] = scales
        if np.any(weights.zero_point):
            raise TfliteError(f"{name} has weights with a zero point, which are not read")
    after = _rounding(name, operator.outputs[0])
    if bool(after) != bool(len(weights.scale)):
        raise TfliteError(f"{name} is quantised only in part: the weights or what it computes")
    return found | after


def _rounding(name: str, tensor: Tensor | None) -> dict[str, np.ndarray]:
    """The scale and zero point of what is computed, where there are any."""
    if tensor is None or len(tensor.scale) != 1 or len(tensor.zero_point) != 1:
        return {}
    return {f"{name}.scale": tensor.scale[0], f"{name}.zero_point": tensor.zero_point[0].astype(np.int32)}
