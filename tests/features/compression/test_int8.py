"""8-bit kernels: close to float32, equal to integer arithmetic by hand, and networks that go through pickle."""

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rayrec.config import ImageFeatures
from rayrec.features.compression.int8 import (
    Int8Convolution,
    Int8ConvolutionSum,
    Scale,
    ToFloat,
    ToIntegers,
    observe,
    quantised,
    rounded,
)
from rayrec.features.efficientnet_lite import WEIGHTS, SamePadding
from rayrec.features.image import image_network
from rayrec.features.networks import FeatureNetwork
from tests.features.compression.pictures import pixels_of


def network_of(body: nn.Module, size: int = 32) -> FeatureNetwork:
    network = FeatureNetwork(body.eval(), [0.5] * 3, [0.25] * 3)
    network.size = network.resize = size
    return network


@pytest.mark.parametrize(("model", "limit"), [("resnet18", 0.1), ("squeezenet1_1", 0.1), ("efficientnet_lite0", 0.3)])
def test_outputs_are_close_to_float32(model: str, limit: float) -> None:
    """Errors grow in a random network of depthwise convolutions, so that this one must be a trained one."""
    weights = "DEFAULT" if model == "efficientnet_lite0" else "none"
    if weights == "DEFAULT":
        pytest.importorskip(WEIGHTS.package, reason="the extra `weights` is not installed: its 8-bit form is NOT tested")
    network = image_network(ImageFeatures(model=model, weights=weights, output="logits", size=64), seed=7)
    pixels = torch.from_numpy(pixels_of(48, size=64))
    fast = quantised(network, observe(network, pixels[:32].split(16)))
    with torch.inference_mode():
        expected, found = network(pixels[32:]), fast(pixels[32:])
    assert found.dtype == torch.float32
    error = ((found - expected) ** 2).sum() / ((expected - expected.mean(0)) ** 2).sum()
    assert 0 < error < limit
    assert any(isinstance(module, Int8Convolution) for module in fast.modules())
    assert not any(isinstance(module, nn.Conv2d) for module in fast.modules())
    assert (fast.size, fast.device.type) == (64, "cpu")


@pytest.mark.parametrize("kind", ["plain", "depthwise", "sum"])
def test_a_convolution_equals_integer_arithmetic(kind: str) -> None:
    """The same sums in whole numbers, as Jacob et al. (2018) define them, with a batch norm and a ReLU."""
    torch.manual_seed(3)
    layer = nn.Conv2d(4, 4, 3, stride=2, padding=1, bias=False, groups=4 if kind == "depthwise" else 1)
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean, norm.running_var = torch.rand(4), torch.rand(4) + 0.5
    x, other = torch.rand(2, 4, 9, 9) * 2 - 0.5, torch.rand(2, 4, 5, 5)
    given, output, added = Scale.of((-0.5, 1.5)), Scale.of((0.0, 1.7)), Scale.of((0.0, 1.0))
    integers = ToIntegers(given)(x)
    assert (ToFloat(given)(integers) - x).abs().max() <= given.step / 2 + 1e-6
    if kind == "sum":
        unit = Int8ConvolutionSum(layer, norm, True, given, output)
        unit.added, unit.kept = added, True
        more = ToIntegers(added)(other)
        before = more.clone()
        found = unit(integers, more)
        assert torch.equal(more, before)
        plus = (more.double() - added.zero) * added.step
    else:
        unit, plus = Int8Convolution(layer, norm, True, given, output), torch.zeros(())
        found = unit(integers)
    assert unit.weight.abs().max() == 63
    sums = nn.functional.conv2d(integers.double() - given.zero, unit.weight.double(), stride=2, padding=1, groups=layer.groups)
    numbers = sums * unit.scales[:, None, None] * given.step + unit.bias[:, None, None] + plus
    expected = (numbers / output.step).round().clamp(0, 255)
    assert (found.double() - expected).abs().max() <= 1  # where a half is rounded otherwise
    assert (found.double() == expected).double().mean() > 0.98
    exact = (norm(layer(x)) + (other if kind == "sum" else 0)).relu().clamp(max=1.7)
    assert (ToFloat(output)(found) - exact).abs().max() < 0.1


class Residual(nn.Module):
    """A body with all that is treated in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.relu = SamePadding(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU6()
        self.conv, self.bias, self.pool = nn.Conv2d(8, 8, 3, padding=1), nn.Parameter(torch.ones(1)), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm(self.stem(x))))
        y = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 0)) + self.conv(x)[:, :, ::2, ::2]
        x = nn.functional.relu(y) + 1
        return (x.mean((2, 3)) + self.bias).sigmoid()


def test_sums_slices_pooling_and_what_stays_float() -> None:
    torch.manual_seed(2)
    network = network_of(Residual(), 33)
    pixels = torch.from_numpy(pixels_of(20, size=33))
    ranges = observe(network, [pixels])
    fast = quantised(network, ranges)
    kinds = [type(module) for module in fast.modules()]
    assert (kinds.count(Int8Convolution), kinds.count(ToIntegers), kinds.count(ToFloat)) == (2, 2, 2)
    assert all(low <= 0 <= high for low, high in ranges.values())
    with torch.inference_mode():
        assert torch.allclose(fast(pixels), network(pixels), atol=0.02)


def test_networks_are_pickled_and_copied() -> None:
    network = network_of(Residual(), 33)
    pixels = torch.from_numpy(pixels_of(4, size=33))
    fast = quantised(network, observe(network, [pixels]))
    again = pickle.loads(pickle.dumps(fast))
    with torch.inference_mode():
        assert torch.equal(fast(pixels), again(pixels))
        assert torch.equal(fast(pixels), fast.to(torch.device("cpu"))(pixels))


def test_a_picture_gives_the_same_alone_and_among_others() -> None:
    network = image_network(ImageFeatures(model="resnet18", weights="none", size=32), seed=7)
    pixels = torch.from_numpy(pixels_of(9))
    fast = quantised(network, observe(network, [pixels]))
    with torch.inference_mode():
        together = fast(pixels).numpy()
        alone = np.concatenate([fast(one[None]).numpy() for one in pixels])
    assert np.allclose(together, alone, atol=1e-4)


def test_ranges_of_another_network_are_refused() -> None:
    network = network_of(Residual(), 33)
    ranges = observe(network, [torch.from_numpy(pixels_of(2, size=33))])
    for wrong in ({}, ranges | {"conv": (0.0, float("inf"))}):
        with pytest.raises(ValueError, match="there is no range of the tensor"):
            quantised(network, wrong)


def test_a_body_that_cannot_be_traced() -> None:
    class Fickle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="can't be traced"):
        observe(network_of(Fickle()), [torch.zeros(1, 32, 32, 3, dtype=torch.uint8)])


def one_by_one(weights: list[float]) -> list[int]:
    """Round the weights of an output; then those nearest to the middle to the other side, until the errors add up to a half."""
    found = [round(weight) for weight in weights]
    while abs(left := sum(weights) - sum(found)) > 0.5:
        step = 1 if left > 0 else -1
        free = [place for place, weight in enumerate(weights) if found[place] == round(weight)]
        found[max(free, key=lambda place: step * (weights[place] - found[place]))] += step
    return found


def test_the_errors_of_rounding_add_up_to_nothing() -> None:
    rng = np.random.default_rng(3)
    few = rng.choice(rng.uniform(-60, 60, 5), (6, 4, 3, 3))  # that err in the same direction
    for weights in (few, rng.uniform(-63, 63, (6, 4, 3, 3)), np.full((2, 1, 3, 3), 62.7)):
        found = rounded(torch.from_numpy(weights)).numpy()
        assert np.abs((weights - found).sum((1, 2, 3))).max() <= 0.5 + 1e-9
        assert np.abs(weights - found).max() <= 1
        assert [row.sum() for row in found] == [sum(one_by_one(row.ravel().tolist())) for row in weights]
        distance = [((row - np.array(one_by_one(row.ravel().tolist())).reshape(row.shape)) ** 2).sum() for row in weights]
        assert ((weights - found) ** 2).sum((1, 2, 3)) == pytest.approx(distance)
