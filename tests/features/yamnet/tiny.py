"""A small network of YAMNet's kind as a file of TensorFlow Lite, with random weights: int8 or float32."""

from typing import Any

import numpy as np
import pytest

from rayrec.features.yamnet import network

STEM, BLOCKS, CLASSES = 8, ((1, 16), (2, 24)), 5
STEP = 6 / 255  # of what a ReLU6 lets through


class TinyFile:
    """The file in the making: what is added to it, in the schema's own objects."""

    def __init__(self, quantised: bool, activation: int, seed: int) -> None:
        self.schema = pytest.importorskip(
            "ai_edge_litert.schema_py_generated", reason="ai-edge-litert is not installed: YAMNet is NOT held to TensorFlow Lite"
        )
        self.quantised, self.activation = quantised, activation
        self.rng = np.random.default_rng(seed)
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[int] = []
        self.buffers = [self.schema.BufferT()]

    def tensor(self, shape: tuple[int, ...], kind: str, scale: Any = (), zero: int = 0, axis: int = 0, values: Any = None) -> int:
        made = self.schema.TensorT()
        made.shape, made.name = list(shape), f"t{len(self.tensors)}".encode()
        made.type = {"float32": 0, "int32": 2, "int8": 9}[kind]
        made.buffer = 0
        if values is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values, kind).tobytes(), np.uint8)
            made.buffer = len(self.buffers)
            self.buffers.append(buffer)
        if np.size(scale):
            made.quantization = self.schema.QuantizationParametersT()
            made.quantization.scale = np.atleast_1d(scale).astype(np.float32).tolist()
            made.quantization.zeroPoint = [zero] * np.size(scale)
            made.quantization.quantizedDimension = axis
        self.tensors.append(made)
        return len(self.tensors) - 1

    def computed(self, shape: tuple[int, ...], scale: float, zero: int) -> int:
        return self.tensor(shape, "int8", scale, zero) if self.quantised else self.tensor(shape, "float32")

    def operator(self, kind: str, inputs: list[int], output: int, options: str = "", **fields: int) -> int:
        code = getattr(self.schema.BuiltinOperator, kind)
        if code not in self.codes:
            self.codes.append(code)
        made = self.schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self.codes.index(code), inputs, [output]
        if options:
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            made.builtinOptions = getattr(self.schema, f"{options}T")()
            for name, value in fields.items():
                setattr(made.builtinOptions, name, value)
        self.operators.append(made)
        return output

    def weights(self, shape: tuple[int, ...], axis: int, scale_in: float) -> list[int]:
        """Weights and biases, such that what comes out is about as large as what goes in."""
        channels, reads = shape[axis], int(np.prod(shape)) // shape[axis]
        real = self.rng.normal(0, 2 / np.sqrt(reads), shape)
        bias = self.rng.normal(0.3, 0.3, channels)
        if not self.quantised:
            return [self.tensor(shape, "float32", values=real), self.tensor((channels,), "float32", values=bias)]
        others = tuple(other for other in range(len(shape)) if other != axis)
        scale = (np.abs(real).max(axis=others) / 127).astype(np.float32)
        whole = np.round(real / scale.reshape([-1 if other == axis else 1 for other in range(len(shape))]))
        steps = scale * np.float32(scale_in)
        return [
            self.tensor(shape, "int8", scale, 0, axis, whole),
            self.tensor((channels,), "int32", steps, 0, 0, np.round(bias / steps)),
        ]

    def packed(self, inputs: int, outputs: int) -> bytes:
        import flatbuffers

        model = self.schema.ModelT()
        model.version, model.buffers, model.operatorCodes = 3, self.buffers, []
        for code in self.codes:
            made = self.schema.OperatorCodeT()
            made.builtinCode, made.deprecatedBuiltinCode, made.version = code, code, 1
            model.operatorCodes.append(made)
        graph = self.schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self.tensors, self.operators, [inputs], [outputs]
        model.subgraphs = [graph]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def tiny_yamnet(quantised: bool, activation: int = 3, seed: int = 1) -> bytes:
    """A stem and two blocks. `activation` is 1 for ReLU and 3 for ReLU6. Random weights give scores of many sizes."""
    file = TinyFile(quantised, activation, seed)
    patch = x = file.tensor((1, 96, 64), "float32")
    if quantised:
        x = file.operator("QUANTIZE", [x], file.tensor((1, 96, 64), "int8", 0.05, 17))
    shape = file.tensor((4,), "int32", values=[1, 96, 64, 1])
    x = file.operator("RESHAPE", [x, shape], file.computed((1, 96, 64, 1), 0.05, 17))
    height, width, channels, step = 96, 64, 1, 0.05
    plan = [(STEM, 2, 3, "CONV_2D")]
    for stride, outputs in BLOCKS:
        plan += [(plan[-1][0], stride, 3, "DEPTHWISE_CONV_2D"), (outputs, 1, 1, "CONV_2D")]
    for outputs, stride, side, kind in plan:
        deep = kind != "CONV_2D"
        constants = file.weights((1, side, side, outputs) if deep else (outputs, side, side, channels), 3 if deep else 0, step)
        height, width, channels, step = -(-height // stride), -(-width // stride), outputs, STEP
        fields = {"strideW": stride, "strideH": stride, "fusedActivationFunction": activation, "padding": 0}
        options = "DepthwiseConv2DOptions" if deep else "Conv2DOptions"
        after = file.computed((1, height, width, channels), STEP, -128)
        x = file.operator(kind, [x, *constants], after, options, **fields, **({"depthMultiplier": 1} if deep else {}))
    axes = file.tensor((2,), "int32", values=[1, 2])
    x = file.operator("MEAN", [x, axes], file.computed((1, 1, 1, channels), 0.02, -128), "ReducerOptions", keepDims=1)
    constants = file.weights((CLASSES, channels), 0, 0.02)
    x = file.operator("FULLY_CONNECTED", [x, *constants], file.computed((1, CLASSES), 0.1, 20), "FullyConnectedOptions")
    x = file.operator("LOGISTIC", [x], file.computed((1, CLASSES), 1 / 256, -128))
    if quantised:
        x = file.operator("DEQUANTIZE", [x], file.tensor((1, CLASSES), "float32"))
    return file.packed(patch, x)


def random_state(seed: int = 1) -> dict[str, np.ndarray]:
    """A whole YAMNet of floats, as `converted` gives it, with random weights."""
    rng, found, channels = np.random.default_rng(seed), dict[str, np.ndarray](), network.STEM
    shapes = [(network.STEM, 1, 3, 3)]
    for _, outputs in network.BLOCKS:
        shapes += [(channels, 1, 3, 3), (outputs, channels, 1, 1)]
        channels = outputs
    names = [*(f"layers.{number}" for number in range(len(shapes))), "classifier"]
    for name, shape in zip(names, [*shapes, (521, channels)], strict=True):
        found[f"{name}.weight"] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        found[f"{name}.bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    return found | {"ceiling": np.array([np.inf], np.float32)}
