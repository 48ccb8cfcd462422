"""Runs the convolutions of a network in 8-bit integers, with torch's kernels for CPUs.

Activations have 8 bits and one scale for each tensor, from the range that was seen on calibration pictures; weights have one scale
for each output channel. Batch norms are folded into the convolutions before them, and a ReLU or ReLU6 behind one is part of its
rounding. Sums of two such tensors stay in integers, too. All else is computed as before, in float32.

Weights have 7 of 8 bits: processors without VNNI add two products of 8 bits in 16 bits, where 8-bit weights would overflow, and the
features would depend on the machine.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from rayrec.features.efficientnet_lite import SamePadding, same_padded
from rayrec.features.networks import FeatureNetwork

LEVELS = 255  # of activations, from 0
WEIGHT_LEVELS = 63  # of weights, on each side of 0
RELUS = (nn.ReLU, nn.ReLU6)
# What also takes tensors of integers, and leaves their scale as it is.
PASSING_LAYERS = (*RELUS, nn.MaxPool2d, nn.Identity, nn.Dropout)
PASSING_FUNCTIONS = (functional.relu, functional.relu6, functional.pad, operator.getitem)
ADDITIONS = (operator.add, operator.iadd, torch.add)

Range = tuple[float, float]  # of the values of a tensor
Ranges = Mapping[str, Range]  # by the name of the node that computes it


@dataclass
class _Unit:
    """Nodes that become one operation on integers: a convolution or a sum, and what follows it."""

    first: fx.Node
    norm: fx.Node | None = None
    relu: fx.Node | None = None

    @property
    def end(self) -> fx.Node:
        return self.relu or self.norm or self.first

    @property
    def inputs(self) -> list[fx.Node]:
        return list(self.first.all_input_nodes)


@dataclass
class _Plan:
    """A traced body, and what of it is computed in integers."""

    module: fx.GraphModule
    units: list[_Unit] = field(default_factory=list)

    @property
    def observed(self) -> set[fx.Node]:
        """The nodes whose ranges are needed."""
        return {node for unit in self.units for node in [unit.end, *unit.inputs]}


def observe(network: FeatureNetwork, pixels: Iterable[Tensor]) -> dict[str, Range]:
    """The ranges of the tensors that become integers, over batches of pictures (uint8 [N, H, W, 3])."""
    plan = _plan(network.body)
    observer = _Observer(plan)
    captured: list[Tensor] = []
    handle = network.body.register_forward_pre_hook(lambda module, inputs: captured.append(inputs[0]))
    try:
        with torch.inference_mode():
            for batch in pixels:
                network(batch)
                observer.run(captured.pop())
    finally:
        handle.remove()
    return observer.found


def quantised(network: FeatureNetwork, ranges: Ranges) -> FeatureNetwork:
    """The same network with 8-bit convolutions, for CPUs alone. Raises `ValueError` for ranges of another network."""
    plan = _plan(network.body)
    for node in plan.observed:
        if not all(map(math.isfinite, ranges.get(node.name, (math.nan,)))):
            raise ValueError(f"there is no range of the tensor {node.name}")
    body = _Rewriting(plan, ranges).module()
    found = FeatureNetwork(body.eval(), network.mean.tolist(), network.std.tolist())
    found.size, found.resize = network.size, network.resize
    return found


class Int8Convolution(nn.Module):
    """A convolution of integers. It is pickled without the form that the kernels of this machine want."""

    def __init__(self, layer: nn.Conv2d, norm: nn.BatchNorm2d | None, relu: bool, output: Range) -> None:
        super().__init__()
        weight, bias = _folded(layer, norm)
        scales = weight.abs().amax((1, 2, 3)).clamp(min=1e-12) / WEIGHT_LEVELS
        self.weight = torch.quantize_per_channel(weight, scales, torch.zeros(len(scales)), 0, torch.qint8)
        self.bias, self.relu = bias, relu
        self.same = (layer.span, layer.step) if isinstance(layer, SamePadding) else None
        self.options = (list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups)
        self.scale, self.zero = _scale(output)
        self._pack()

    def forward(self, x: Tensor) -> Tensor:
        if self.same is not None:
            x = same_padded(x, *self.same)
        kernel = torch.ops.quantized.conv2d_relu if self.relu else torch.ops.quantized.conv2d
        return kernel(x, self.packed, self.scale, self.zero)

    def _pack(self) -> None:
        self.packed = torch.ops.quantized.conv2d_prepack(self.weight, self.bias, *self.options)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._pack()


class Int8Sum(nn.Module):
    """The sum of two tensors of integers."""

    def __init__(self, relu: bool, output: Range) -> None:
        super().__init__()
        self.relu, (self.scale, self.zero) = relu, _scale(output)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (torch.ops.quantized.add_relu if self.relu else torch.ops.quantized.add)(a, b, self.scale, self.zero)


class Quantise(nn.Module):
    """Makes integers of a tensor."""

    def __init__(self, output: Range) -> None:
        super().__init__()
        self.scale, self.zero = _scale(output)

    def forward(self, x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(x, self.scale, self.zero, torch.quint8)


class _Tracer(fx.Tracer):
    """Does not look into layers, among them our own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


class _Observer(fx.Interpreter):
    """Runs the traced body and notes the ranges of tensors."""

    def __init__(self, plan: _Plan) -> None:
        super().__init__(plan.module)
        self.observed, self.found = plan.observed, dict[str, Range]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.observed:
            low, high = (float(limit) for limit in value.aminmax())
            before = self.found.get(n.name, (0.0, 0.0))
            self.found[n.name] = min(low, before[0]), max(high, before[1])
        return value


class _Rewriting:
    """Writes a new graph. A node of the old one has a float tensor or one of integers in the new, or both where both are used."""

    def __init__(self, plan: _Plan, ranges: Ranges) -> None:
        self.plan, self.ranges = plan, ranges
        self.old = dict(plan.module.named_modules())
        self.root, self.graph = nn.Module(), fx.Graph()
        self.floats, self.integers = dict[fx.Node, fx.Node](), dict[fx.Node, fx.Node]()

    def module(self) -> fx.GraphModule:
        firsts = {unit.first: unit for unit in self.plan.units}
        inside = {node for unit in self.plan.units for node in (unit.norm, unit.relu) if node is not None}
        for node in self.plan.module.graph.nodes:
            if node in firsts:
                self._integers(firsts[node])
            elif node not in inside:
                self._copy(node)
        return fx.GraphModule(self.root, self.graph)

    def _integers(self, unit: _Unit) -> None:
        name, output = unit.end.name, self.ranges[unit.end.name]
        inputs = tuple(self._as_integers(node) for node in unit.inputs)
        if unit.first.op == "call_module":
            layer = self.old[str(unit.first.target)]
            norm = self.old[str(unit.norm.target)] if unit.norm is not None else None
            assert isinstance(layer, nn.Conv2d)
            assert norm is None or isinstance(norm, nn.BatchNorm2d)
            self.integers[unit.end] = self._call(name, Int8Convolution(layer, norm, unit.relu is not None, output), inputs)
        else:
            self.integers[unit.end] = self._call(name, Int8Sum(unit.relu is not None, output), inputs)

    def _copy(self, node: fx.Node) -> None:
        inputs = node.all_input_nodes
        if len(inputs) == 1 and inputs[0] in self.integers and self._passes(node):
            self.integers[node] = self._copied(node, self._as_integers)
        else:
            self.floats[node] = self._copied(node, self._as_float)

    def _passes(self, node: fx.Node) -> bool:
        """Whether a node does with integers what it does with the numbers that they stand for."""
        if node.op == "call_module":
            return isinstance(self.old[str(node.target)], PASSING_LAYERS)
        return node.op == "call_function" and node.target in PASSING_FUNCTIONS

    def _copied(self, node: fx.Node, of: Callable[[fx.Node], fx.Node]) -> fx.Node:
        """The same node in the new graph. Layers get its name."""
        copied = self.graph.node_copy(node, of)
        if node.op in ("call_module", "get_attr"):
            target: Any = self.plan.module
            for part in str(node.target).split("."):
                target = getattr(target, part)
            setattr(self.root, node.name, target)
            copied.target = node.name
        return copied

    def _as_integers(self, node: fx.Node) -> fx.Node:
        if node not in self.integers:
            quantise = Quantise(self.ranges[node.name])
            self.integers[node] = self._call(f"{node.name}_quantised", quantise, (self.floats[node],))
        return self.integers[node]

    def _as_float(self, node: fx.Node) -> fx.Node:
        if node not in self.floats:
            self.floats[node] = self.graph.call_method("dequantize", (self.integers[node],))
        return self.floats[node]

    def _call(self, name: str, module: nn.Module, inputs: tuple[fx.Node, ...]) -> fx.Node:
        setattr(self.root, name, module)
        return self.graph.call_module(name, inputs)


def _plan(body: nn.Module) -> _Plan:
    """Find the convolutions and sums of a body. Raises `ValueError` for a body that can't be traced."""
    try:
        graph = _Tracer().trace(body)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise ValueError(f"its operations can't be traced ({error})") from error
    module = fx.GraphModule(body, graph)
    modules = dict(module.named_modules())

    def kind(node: fx.Node) -> nn.Module | None:
        return modules[str(node.target)] if node.op == "call_module" else None

    def follower(node: fx.Node) -> fx.Node | None:
        return next(iter(node.users)) if len(node.users) == 1 else None

    plan = _Plan(module)
    for node in graph.nodes:
        adds = node.target in ADDITIONS and len(node.args) == len(node.all_input_nodes) == 2 and not node.kwargs
        if not (isinstance(kind(node), nn.Conv2d) or adds):
            continue
        unit, behind = _Unit(node), follower(node)
        if behind is not None and not adds and isinstance(kind(behind), nn.BatchNorm2d):
            unit.norm, behind = behind, follower(behind)
        if behind is not None and _is_relu(behind, kind(behind)):
            unit.relu = behind
        plan.units.append(unit)
    return plan


def _is_relu(node: fx.Node, module: nn.Module | None) -> bool:
    """A ReLU6 is one whose range ends at 6: rounding does the rest."""
    return isinstance(module, RELUS) or node.target in (functional.relu, functional.relu6, torch.relu)


def _folded(layer: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """The weights and biases of a convolution with its batch norm."""
    if norm is None:
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias
        return layer.weight.detach(), bias.detach()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, folded = fuse_conv_bn_weights(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return weight.detach(), folded.detach()


def _scale(values: Range) -> tuple[float, int]:
    """The step between two integers, and the integer that stands for 0."""
    low, high = min(values[0], 0.0), max(values[1], 0.0)
    scale = max((high - low) / LEVELS, 1e-8)
    return scale, min(LEVELS, max(0, round(-low / scale)))
