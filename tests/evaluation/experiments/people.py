"""Users of a made-up experiment: some watch much more than others, before it and in it."""

import numpy as np


def people(rng: np.random.Generator, *shape: int, gain: float = 0.0) -> np.ndarray:
    """[..., 3]: seconds watched, videos watched, and seconds watched before. `gain` is of the seconds of a video."""
    liking = rng.gamma(2.0, 1.0, shape)
    videos = 1 + rng.poisson(5 * liking)
    seconds = videos * 8 * rng.lognormal(0, 0.6, shape) * (1 + gain)
    before = 40 * liking * rng.lognormal(0, 0.3, shape)
    return np.stack([seconds, videos, before], axis=-1)
