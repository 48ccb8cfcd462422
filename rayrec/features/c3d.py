"""C3D (Tran et al., 2015): eight 3x3x3 convolutions, then fc6, fc7 and the classifier fc8.

The layers carry the names under which its Sports-1M weights are passed on: conv1, conv2, conv3a ... conv5b, fc6, fc7, fc8. The
original reads frames through OpenCV, blue first, on a scale of 0 to 255 and with the mean of Sports-1M taken off; its mean is one
number a pixel, of which only the mean of each colour is kept here.
"""

from torch import Tensor, nn

FRAMES, SIZE, RESIZE = 16, 112, 128  # what fc6's 8192 inputs are made for
CLASSES = 487  # of Sports-1M
MEAN, STD = [102 / 255, 98 / 255, 90 / 255], [1 / 255] * 3  # red, green, blue, of colours scaled to 0..1


class C3D(nn.Module):
    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv1 = _convolution(3, 64)
        self.conv2 = _convolution(64, 128)
        self.conv3a, self.conv3b = _convolution(128, 256), _convolution(256, 256)
        self.conv4a, self.conv4b = _convolution(256, 512), _convolution(512, 512)
        self.conv5a, self.conv5b = _convolution(512, 512), _convolution(512, 512)
        self.pool1 = nn.MaxPool3d((1, 2, 2))  # keeps time longer than space
        self.pool = nn.MaxPool3d(2)
        self.pool5 = nn.MaxPool3d(2, padding=(0, 1, 1))
        self.fc6, self.fc7, self.fc8 = nn.Linear(8192, 4096), nn.Linear(4096, 4096), nn.Linear(4096, classes)
        self.relu, self.dropout = nn.ReLU(), nn.Dropout(0.5)
        for layer in self.modules():
            # As torch initialises them, ten layers in a row would shrink every clip to the same vector.
            if isinstance(layer, nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, clips: Tensor) -> Tensor:
        """float32 [N, 3, 16, 112, 112], red first, normalised by `MEAN` and `STD` -> logits [N, classes]."""
        if clips.shape[2:] != (FRAMES, SIZE, SIZE):
            raise ValueError(f"it is made for {FRAMES} frames of {SIZE} x {SIZE} pixels")
        x = self.pool1(self.relu(self.conv1(clips.flip(1))))
        x = self.pool(self.relu(self.conv2(x)))
        x = self.pool(self.relu(self.conv3b(self.relu(self.conv3a(x)))))
        x = self.pool(self.relu(self.conv4b(self.relu(self.conv4a(x)))))
        x = self.pool5(self.relu(self.conv5b(self.relu(self.conv5a(x)))))
        x = self.dropout(self.relu(self.fc6(x.flatten(1))))
        x = self.dropout(self.relu(self.fc7(x)))
        return self.fc8(x)


def _convolution(inputs: int, outputs: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, kernel_size=3, padding=1)
