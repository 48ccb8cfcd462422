"""One space for several modalities: each has its own projection into it, and what belongs together is close there.

    title -> text network --+
    cover -> image network --+--> (x - mean) / deviation -> linear, ReLU, linear -> a vector of length 1
    sound -> 34 features ----+

A projection reads extracted features, so that learning it costs seconds and no network has to be run again. A video's own vector is
the mean of those of its modalities, made a unit vector again.
Shapes: N videos, D features of a modality, S numbers in the space.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from rayrec.config import Search
from rayrec.retrieval.inputs import TEXT, Inputs

PROJECTED_AT_ONCE = 8192
FAR = 10.0  # deviations from the mean: a query may be like no video
FLAT = 1e-6  # a smaller deviation counts as none: such a feature says nothing


class Space(nn.Module):
    """The projections. The text side of a query goes through the same one as titles, a picture through that of covers."""

    def __init__(self, sizes: Mapping[str, int], settings: Search) -> None:
        """`sizes` are the D of each modality."""
        super().__init__()
        self.sizes, self.size = dict(sizes), settings.size
        self.projections = nn.ModuleDict({name: _projection(size, settings) for name, size in sizes.items()})
        for name, size in sizes.items():
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))

    def fit_scales(self, inputs: Inputs) -> None:
        """Set the mean and the deviation of each feature to those of these videos.

        The numbers of a text are alike, and have one deviation. With one for each, a word that all titles have, and whose number
        hardly varies, would say more of a query that lacks it than all other words.
        """
        for name in self.sizes:
            values = inputs.values[name][inputs.present[name]].astype(np.float64)
            deviation = values.std(axis=0)
            varies = deviation > FLAT
            if name == TEXT and varies.any():
                deviation = np.full_like(deviation, np.sqrt(np.mean(deviation[varies] ** 2)))
            scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
            self.get_buffer(f"{name}_mean").copy_(torch.from_numpy(values.mean(axis=0)))
            self.get_buffer(f"{name}_scale").copy_(torch.from_numpy(scale))

    def forward(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """float32 [N, D] -> unit vectors [N, S], for each of the modalities that are given."""
        return {name: self.project(name, each) for name, each in values.items()}

    def project(self, name: str, values_ND: Tensor) -> Tensor:
        standard_ND = (values_ND - self.get_buffer(f"{name}_mean")) * self.get_buffer(f"{name}_scale")
        return nn.functional.normalize(self.projections[name](standard_ND.clamp(-FAR, FAR)), dim=1)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def _projection(size: int, settings: Search) -> nn.Module:
    if not settings.hidden:
        return nn.Linear(size, settings.size)
    return nn.Sequential(nn.Linear(size, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, settings.size))


@torch.inference_mode()
def projected(space: Space, inputs: Inputs) -> dict[str, np.ndarray]:
    """The vectors of each modality that both the space and the videos have, float32 [N, S]; zeros where a video lacks it."""
    found = {}
    for name in (name for name in space.sizes if name in inputs.values):
        values = torch.from_numpy(inputs.values[name])
        vectors = [space.project(name, piece.to(space.device)).cpu().numpy() for piece in values.split(PROJECTED_AT_ONCE)]
        found[name] = np.concatenate(vectors) * inputs.present[name][:, None]
    return found


def mean_of(vectors: Mapping[str, np.ndarray], count: int, size: int, without: str = "") -> np.ndarray:
    """The vector of each video, float32 [N, S] of length 1: the mean of those of its modalities. Zeros for a video without any."""
    total = sum((each for name, each in vectors.items() if name != without), np.zeros((count, size), dtype=np.float32))
    lengths = np.linalg.norm(total, axis=1, keepdims=True)
    return np.divide(total, lengths, out=np.zeros_like(total), where=lengths > FLAT)
