"""Picture features: one vector for the sampled frames of a video (their mean) and one for its cover."""

import torchvision

from rayrec.config import ImageFeatures
from rayrec.features.networks import Arrays, FeatureNetwork, means, sized_network


def image_network(settings: ImageFeatures, seed: int) -> FeatureNetwork:
    """Raises `ConfigError` for a model or weights that can't be had or don't fit."""
    return sized_network("features.image", torchvision.models, settings, seed)


def image_features(network: FeatureNetwork, images: Arrays, covers: Arrays) -> tuple[Arrays, Arrays]:
    """float32 [D] of each video's frames (uint8 [F, H, W, 3], their mean) and of each cover ([H, W, 3]); None stays None."""
    vectors = means(network, [*images, *(None if cover is None else cover[None] for cover in covers)])
    return vectors[: len(images)], vectors[len(images) :]
