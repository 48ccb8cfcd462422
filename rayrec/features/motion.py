"""Motion features: clips of consecutive frames go through a network over space and time; the features are the mean of its vectors.

`c3d` (C3D; Tran et al., 2015) is our own: eight 3x3x3 convolutions, then fc6, fc7 and the classifier fc8. Its layers have the names
of the Sports-1M weights that are passed around: conv1, conv2, conv3a ... conv5b, fc6, fc7, fc8. The original reads frames through
OpenCV, blue first, on a scale of 0 to 255, and subtracts the mean of Sports-1M. That mean has one number for each pixel, of which
only the mean of each colour is kept here.
"""

import torchvision
from torch import Tensor, nn

from rayrec.config import MotionFeatures
from rayrec.features.networks import Arrays, Family, FeatureNetwork, OwnModel, Transform, means, sized_network

C3D_FRAMES, C3D_SIZE, C3D_RESIZE = 16, 112, 128  # fc6 has 8192 inputs, made for these
SPORTS_1M_CLASSES = 487
SPORTS_1M_MEAN = [102 / 255, 98 / 255, 90 / 255]  # red, green, blue, of colours scaled to 0..1


def motion_network(settings: MotionFeatures, seed: int) -> FeatureNetwork:
    """The network that the settings describe. Raises `ConfigError` for a model or weights that can't be loaded or don't fit."""
    return sized_network(MOTION_MODELS, "features.motion", settings, seed)


def motion_features(network: FeatureNetwork, clips: Arrays) -> Arrays:
    """float32 [D] for each video's clips (uint8 [C, T, H, W, 3]); None stays None."""
    return means(network, clips)


class C3D(nn.Module):
    """Weights start as He's initialisation draws them. With torch's own, ten layers in a row shrink all clips to one vector."""

    def __init__(self, classes: int = SPORTS_1M_CLASSES) -> None:
        super().__init__()
        self.conv1 = _convolution(3, 64)
        self.conv2 = _convolution(64, 128)
        self.conv3a, self.conv3b = _convolution(128, 256), _convolution(256, 256)
        self.conv4a, self.conv4b = _convolution(256, 512), _convolution(512, 512)
        self.conv5a, self.conv5b = _convolution(512, 512), _convolution(512, 512)
        self.pool1 = nn.MaxPool3d((1, 2, 2))  # time is halved later than space
        self.pool = nn.MaxPool3d(2)
        self.pool5 = nn.MaxPool3d(2, padding=(0, 1, 1))
        self.fc6, self.fc7, self.fc8 = nn.Linear(8192, 4096), nn.Linear(4096, 4096), nn.Linear(4096, classes)
        self.relu, self.dropout = nn.ReLU(), nn.Dropout(0.5)
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, clips: Tensor) -> Tensor:
        """float32 [N, 3, 16, 112, 112], red first, on a scale of 0 to 255 less the mean -> logits [N, classes]."""
        if clips.shape[2:] != (C3D_FRAMES, C3D_SIZE, C3D_SIZE):
            raise ValueError(f"it is made for {C3D_FRAMES} frames of {C3D_SIZE} x {C3D_SIZE} pixels")
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


MOTION_MODELS = Family(
    torchvision.models.video,
    own={
        "c3d": OwnModel(
            C3D,
            Transform(C3D_SIZE, C3D_RESIZE, SPORTS_1M_MEAN, std=[1 / 255] * 3),
            weights_hint="Set {setting}.weights to the path of a state dict with the layers conv1, conv2, conv3a ... conv5b, fc6, "
            "fc7, fc8 (c3d-pytorch's Sports-1M weights are one), or to none for a random network; or set {setting}.model to "
            "r3d_18, which has weights",
        )
    },
    hint="clips of 16 frames",
)
