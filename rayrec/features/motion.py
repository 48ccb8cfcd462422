"""Motion features: one vector for a clip of consecutive frames, from a network that looks at space and time together."""

import numpy as np
import torch
import torchvision

from rayrec.config import MotionFeatures
from rayrec.features.networks import Family, FeatureNetwork, build


def motion_network(settings: MotionFeatures, seed: int) -> FeatureNetwork:
    """Raises `ConfigError` for a model or weights that can't be had or don't fit."""
    shape = (settings.frames, settings.size, settings.size, 3)
    return build(Family("features.motion", torchvision.models.video, shape), settings, seed)


def motion_features(network: FeatureNetwork, clips: list[np.ndarray | None]) -> list[np.ndarray | None]:
    """float32 [D] of each clip (uint8 [T, H, W, 3]); None stays None."""
    there = [clip for clip in clips if clip is not None]
    if not there:
        return [None] * len(clips)
    with torch.inference_mode():
        vectors = iter(network(torch.from_numpy(np.stack(there)).to(network.device)).cpu().numpy())
    return [None if clip is None else next(vectors) for clip in clips]
