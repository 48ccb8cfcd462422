"""The ResNets for CIFAR-10 (He et al., 2016, section 4.2), with the layers' names of akamaster/pytorch_resnet_cifar10's weights."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayrec.features.networks import FeatureNetwork

SIZE = 32
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # that these weights were trained with
DEPTHS = {"resnet20": 3, "resnet56": 9}  # blocks of each of the three parts


class CifarResNet(nn.Module):
    """float32 [N, 3, 32, 32] -> logits [N, 10]."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = _part(16, 16, blocks), _part(16, 32, blocks), _part(32, 64, blocks)
        self.relu, self.pool, self.linear = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.linear(self.pool(self.layer3(self.layer2(self.layer1(x)))).flatten(1))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.grows, self.added = outputs > inputs, (outputs - inputs) // 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2 if self.grows else 1, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.grows:  # "option A": every second pixel, and channels of zeros
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))
        return self.relu(inner + x)


def _part(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(_Block(inputs, outputs), *(_Block(outputs, outputs) for _ in range(blocks - 1)))


def load(weights: Path) -> FeatureNetwork:
    """The trained network of a file such as `resnet20_cifar10.th`, which has its name."""
    body = CifarResNet(DEPTHS[weights.name.split("_")[0]])
    state = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    body.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    network = FeatureNetwork(body.eval(), MEAN, STD).to(memory_format=torch.channels_last)
    network.size = network.resize = SIZE
    return network
