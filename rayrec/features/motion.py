"""Motion features: clips of consecutive frames through a network that looks at space and time together; their mean."""

import torchvision

from rayrec.config import MotionFeatures
from rayrec.features.networks import Arrays, FeatureNetwork, means, sized_network


def motion_network(settings: MotionFeatures, seed: int) -> FeatureNetwork:
    """Raises `ConfigError` for a model or weights that can't be had or don't fit."""
    return sized_network("features.motion", torchvision.models.video, settings, seed)


def motion_features(network: FeatureNetwork, clips: Arrays) -> Arrays:
    """float32 [D] of each video's clips (uint8 [C, T, H, W, 3]); None stays None."""
    return means(network, clips)
