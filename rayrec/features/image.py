"""Picture features: one vector for the sampled frames of a video (their mean) and one for its cover."""

import numpy as np
import torch
import torchvision

from rayrec.config import ImageFeatures
from rayrec.features.networks import Family, FeatureNetwork, build

Arrays = list[np.ndarray | None]


def image_network(settings: ImageFeatures, seed: int) -> FeatureNetwork:
    """Raises `ConfigError` for a model or weights that can't be had or don't fit."""
    return build(Family("features.image", torchvision.models, (settings.size, settings.size, 3)), settings, seed)


def image_features(network: FeatureNetwork, images: Arrays, covers: Arrays) -> tuple[Arrays, Arrays]:
    """float32 [D] of each video's frames (uint8 [F, H, W, 3]) and of each cover ([H, W, 3]); None stays None.

    The frames and covers of all videos go through the network as one batch.
    """
    stacks = images + [None if cover is None else cover[None] for cover in covers]
    there = [stack for stack in stacks if stack is not None]
    if not there:
        return [None] * len(images), [None] * len(covers)
    with torch.inference_mode():
        vectors = network(torch.from_numpy(np.concatenate(there)).to(network.device)).cpu().numpy()
    parts = iter(np.split(vectors, np.cumsum([len(stack) for stack in there])[:-1]))
    means: Arrays = [None if stack is None else next(parts).mean(axis=0) for stack in stacks]
    return means[: len(images)], means[len(images) :]
