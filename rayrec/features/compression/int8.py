"""Runs the convolutions of a network in 8-bit integers, with oneDNN's kernels for CPUs, which torch brings.

Activations have 8 bits and one scale for each tensor, from the range that was seen on calibration pictures; weights have one scale
for each output channel (Jacob et al., 2018). The batch norm behind a convolution is folded into it, and a sum with another tensor
and a ReLU or ReLU6 behind that are part of its rounding. All else is computed as before, in float32.

Weights go from -64 to 64: processors without VNNI add two products of 8 bits in 16 bits, where 8-bit weights would overflow, and
the features would depend on the machine.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from rayrec.features.efficientnet_lite import SamePadding
from rayrec.features.networks import FeatureNetwork
from rayrec.features.padding import same_padded

LEVELS = 255  # of activations, from 0
WEIGHT_LEVELS = 63  # of weights, on each side of 0; `rounded` may make one more of them
RELUS = (nn.ReLU, nn.ReLU6)
SUMS = (operator.add, operator.iadd, torch.add)
PASSING_LAYERS = (nn.Identity, nn.Dropout)  # that do with integers what they do with the numbers these stand for

Range = tuple[float, float]  # of the values of a tensor
Ranges = Mapping[str, Range]  # by the name of the node that computes it


class Scale(NamedTuple):
    """The difference between the numbers that two neighbouring integers stand for, and the integer that stands for 0."""

    step: float
    zero: int

    @classmethod
    def of(cls, values: Range) -> "Scale":
        low, high = min(values[0], 0.0), max(values[1], 0.0)
        step = max((high - low) / LEVELS, 1e-8)
        return cls(step, min(LEVELS, max(0, round(-low / step))))


def observe(network: FeatureNetwork, pixels: Iterable[Tensor]) -> dict[str, Range]:
    """The ranges of the tensors that become integers, over batches of pictures (uint8 [N, H, W, 3]).

    Raises `ValueError` for a network that can't be traced.
    """
    observer = _Observer(_plan(network))
    with torch.inference_mode():
        for batch in pixels:
            observer.run(network.normalised(batch))
    return observer.found


def quantised(network: FeatureNetwork, ranges: Ranges) -> FeatureNetwork:
    """The same network with 8-bit convolutions, for CPUs alone. Raises `ValueError` for ranges of another network."""
    plan = _plan(network)
    for node in plan.observed:
        if not all(map(math.isfinite, ranges.get(node.name, (math.nan,)))):
            raise ValueError(f"there is no range of the tensor {node.name}")
    found = FeatureNetwork(_Rewriting(plan, ranges).module().eval(), network.mean.tolist(), network.std.tolist())
    found.size, found.resize = network.size, network.resize
    return found


# --- operations -----------------------------------------------------------------------------------------------------------------


def rounded(weight: Tensor) -> Tensor:
    """Whole numbers near those of [outputs, ...], such that the errors of each output's weights add up to at most a half.

    What a layer reads is mostly positive, so the outputs would be shifted otherwise, the more so where weights share few values and
    err in the same direction. Of the weights of an output, as many as needed are rounded to their other side, those nearest to the
    middle first (Guo et al., 2022).
    """
    errors = weight - weight.round()
    flat = errors.flatten(1)
    many = flat.sum(1).round()[:, None]
    turned = flat * many.sign()
    ranks = turned.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return weight.round() + (many.sign() * (ranks < many.abs())).view_as(weight)


class Int8Convolution(nn.Module):
    """A convolution of integers, uint8 to uint8. It is pickled without the form that the kernels of this machine want."""

    def __init__(self, layer: nn.Conv2d, norm: nn.BatchNorm2d | None, relu: bool, given: Scale, output: Scale) -> None:
        super().__init__()
        weight, self.bias = _folded(layer, norm)
        self.scales = weight.abs().amax((1, 2, 3)).clamp(min=1e-12) / WEIGHT_LEVELS
        self.weight = rounded(weight / self.scales[:, None, None, None]).to(torch.int8)
        self.zeros = torch.zeros(len(weight), dtype=torch.int8)
        self.same = (layer.span, layer.step) if isinstance(layer, SamePadding) else None
        self.options = (list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups)
        self.relu, self.given, self.output = "relu" if relu else "none", given, output
        self._pack()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.onednn.qconv2d_pointwise(*self._inputs(x), self.bias, *self._numbers(), self.relu, [], "")

    def _inputs(self, x: Tensor) -> tuple[Any, ...]:
        if self.same is not None:
            x = same_padded(x, *self.same, self.given.zero)
        return x, *self.given, self.packed, self.scales, self.zeros

    def _numbers(self) -> tuple[Any, ...]:
        return *self.options, *self.output, torch.uint8

    def _pack(self) -> None:
        self.packed = torch.ops.onednn.qconv_prepack(self.weight, self.scales, *self.given, *self.options, None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._pack()


class Int8ConvolutionSum(Int8Convolution):
    """The sum of a convolution and another tensor of integers, which may be overwritten unless it is `kept`."""

    added: Scale
    kept: bool

    def forward(self, x: Tensor, other: Tensor) -> Tensor:  # type: ignore[override]
        other = other.clone(memory_format=torch.channels_last) if self.kept else other.contiguous(memory_format=torch.channels_last)
        return torch.ops.onednn.qconv2d_pointwise.binary(
            *self._inputs(x), other, self.bias, *self._numbers(), *self.added, "sum", 1.0, self.relu, [], ""
        )


class ToIntegers(nn.Module):
    """float32 to uint8, rounded to the nearest integer."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return (x * (1 / self.scale.step)).round_().add_(self.scale.zero).clamp_(0, LEVELS).to(torch.uint8)


class ToFloat(nn.Module):
    """uint8 to the float32 numbers that the integers stand for."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x.float().sub_(self.scale.zero).mul_(self.scale.step)


# --- the plan -------------------------------------------------------------------------------------------------------------------


@dataclass
class _Unit:
    """Nodes that become one operation on integers: a convolution and what follows it."""

    layer: fx.Node
    norm: fx.Node | None = None
    sum: fx.Node | None = None
    other: fx.Node | None = None  # what is added
    relu: fx.Node | None = None

    @property
    def end(self) -> fx.Node:
        return self.relu or self.sum or self.norm or self.layer

    @property
    def inputs(self) -> list[fx.Node]:
        return [*self.layer.all_input_nodes, *([self.other] if self.other is not None else [])]


@dataclass
class _Plan:
    """A traced body, and what of it is computed in integers. A unit is computed where its last node is."""

    module: fx.GraphModule
    units: list[_Unit] = field(default_factory=list)

    @property
    def observed(self) -> set[fx.Node]:
        """The nodes whose ranges are needed."""
        return {node for unit in self.units for node in [unit.end, *unit.inputs]}


class _Tracer(fx.Tracer):
    """Does not look into convolutions, our own among them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


class _Shapes(fx.Interpreter):
    """Runs the traced body and notes the shapes of tensors."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found = dict[fx.Node, tuple[int, ...]]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found[n] = tuple(value.shape)
        return value


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


def _plan(network: FeatureNetwork) -> _Plan:
    """Find the convolutions of a body and what follows each. Raises `ValueError` for a body that can't be traced."""
    try:
        graph = _Tracer().trace(network.body)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise ValueError(f"its operations can't be traced ({error})") from error
    module = fx.GraphModule(network.body, graph)
    modules, shapes = dict(module.named_modules()), _Shapes(module)
    with torch.inference_mode():
        shapes.run(network.normalised(torch.zeros(1, network.size, network.size, 3, dtype=torch.uint8)))

    def kind(node: fx.Node | None) -> nn.Module | None:
        return modules[str(node.target)] if node is not None and node.op == "call_module" else None

    plan, sums = _Plan(module), set[fx.Node]()
    for node in graph.nodes:
        if not _is_convolution(kind(node)):
            continue
        unit = _Unit(node)
        if isinstance(kind(behind := _only_user(node)), nn.BatchNorm2d):
            unit.norm = behind
        behind = _only_user(unit.end)
        if behind is not None and _adds(behind, shapes.found) and behind not in sums:
            unit.sum, unit.other = behind, next(one for one in behind.all_input_nodes if one is not unit.end)
            sums.add(behind)
            behind = _only_user(behind)
        if behind is not None and _is_relu(behind, kind(behind)):
            unit.relu = behind
        plan.units.append(unit)
    return plan


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_convolution(module: nn.Module | None) -> bool:
    """Whether the kernels know this kind of convolution."""
    return isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _adds(node: fx.Node, shapes: Mapping[fx.Node, tuple[int, ...]]) -> bool:
    """Whether a node adds two different tensors of one shape."""
    inputs = node.all_input_nodes
    same = len(inputs) == len(node.args) == 2 and not node.kwargs and shapes.get(inputs[0]) == shapes.get(inputs[1])
    return node.op == "call_function" and node.target in SUMS and same


def _is_relu(node: fx.Node, module: nn.Module | None) -> bool:
    """A ReLU6 is one whose range ends at 6: rounding does the rest."""
    return isinstance(module, RELUS) or node.target in (functional.relu, functional.relu6, torch.relu)


def _folded(layer: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """The weights and biases of a convolution with its batch norm."""
    if norm is None:
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias
        return layer.weight.detach().contiguous(), bias.detach()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, folded = fuse_conv_bn_weights(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return weight.detach().contiguous(), folded.detach()


# --- the new graph --------------------------------------------------------------------------------------------------------------


class _Rewriting:
    """Writes a new graph. A node of the old one has a float tensor or one of integers in the new, or both where both are used."""

    def __init__(self, plan: _Plan, ranges: Ranges) -> None:
        self.plan, self.ranges = plan, ranges
        self.old = dict(plan.module.named_modules())
        self.root, self.graph = nn.Module(), fx.Graph()
        self.floats, self.integers = dict[fx.Node, fx.Node](), dict[fx.Node, fx.Node]()
        self.scales = dict[fx.Node, Scale]()
        self.fresh = set[fx.Node]()  # whose integers are no view of others
        self.ends = {unit.end: unit for unit in plan.units}
        self.place = {node: number for number, node in enumerate(plan.module.graph.nodes)}
        self.inside = {
            node: unit for unit in plan.units for node in (unit.layer, unit.norm, unit.sum, unit.relu) if node is not None
        }

    def module(self) -> fx.GraphModule:
        for node in self.plan.module.graph.nodes:
            if node in self.ends:
                self._convolution(self.ends[node])
            elif node not in self.inside:
                self._copy(node)
        return fx.GraphModule(self.root, self.graph)

    def _convolution(self, unit: _Unit) -> None:
        layer, norm = self.old[str(unit.layer.target)], None if unit.norm is None else self.old[str(unit.norm.target)]
        assert isinstance(layer, nn.Conv2d)
        assert norm is None or isinstance(norm, nn.BatchNorm2d)
        inputs = tuple(self._as_integers(node) for node in unit.inputs)
        scales = [self.scales[node] for node in unit.inputs]
        output = Scale.of(self.ranges[unit.end.name])
        kind = Int8Convolution if unit.other is None else Int8ConvolutionSum
        module = kind(layer, norm, unit.relu is not None, scales[0], output)
        if isinstance(module, Int8ConvolutionSum):
            assert unit.other is not None
            module.added, module.kept = scales[1], self._is_needed_after(unit.other, unit)
        self._set(unit.end, self._call(unit.end.name, module, inputs), output)
        self.fresh.add(unit.end)

    def _is_needed_after(self, node: fx.Node, unit: _Unit) -> bool:
        """Whether the integers of a node must stay as they are when a unit has used them."""
        last = max(self.place[self.inside[user].end if user in self.inside else user] for user in node.users)
        return node not in self.fresh or last > self.place[unit.end]

    def _copy(self, node: fx.Node) -> None:
        inputs = node.all_input_nodes
        if len(inputs) != 1 or inputs[0] not in self.integers or not self._passes(node):
            self.floats[node] = self._copied(node, self._as_float)
            return
        copied = self._copied(node, self._as_integers)
        if node.target is functional.pad:
            copied.args, copied.kwargs = copied.args[:2], {"value": self.scales[inputs[0]].zero}
            self.fresh.add(node)
        self._set(node, copied, self.scales[inputs[0]])

    def _passes(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self.old[str(node.target)], PASSING_LAYERS)
        with_zeros = node.kwargs.get("mode", "constant") == "constant" and not node.kwargs.get("value") and len(node.args) == 2
        pads = node.target is functional.pad and with_zeros
        return node.op == "call_function" and (pads or node.target is operator.getitem)

    def _copied(self, node: fx.Node, of: Callable[[fx.Node], fx.Node]) -> fx.Node:
        """The same node in the new graph. Layers get its name."""
        copied = self.graph.node_copy(node, of)
        if node.op in ("call_module", "get_attr"):
            setattr(self.root, node.name, operator.attrgetter(str(node.target))(self.plan.module))
            copied.target = node.name
        return copied

    def _set(self, node: fx.Node, integers: fx.Node, scale: Scale) -> None:
        self.integers[node], self.scales[node] = integers, scale

    def _as_integers(self, node: fx.Node) -> fx.Node:
        if node not in self.integers:
            scale = Scale.of(self.ranges[node.name])
            self._set(node, self._call(f"{node.name}_integers", ToIntegers(scale), (self.floats[node],)), scale)
            self.fresh.add(node)
        return self.integers[node]

    def _as_float(self, node: fx.Node) -> fx.Node:
        if node not in self.floats:
            self.floats[node] = self._call(f"{node.name}_float", ToFloat(self.scales[node]), (self.integers[node],))
        return self.floats[node]

    def _call(self, name: str, module: nn.Module, inputs: tuple[fx.Node, ...]) -> fx.Node:
        setattr(self.root, name, module)
        return self.graph.call_module(name, inputs)
