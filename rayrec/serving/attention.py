"""Where a user looks: the attention that the user's kernels pay to the places of a video's cover."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayrec.ranking.scorer import Scorer


@dataclass(frozen=True)
class StageAttention:
    """What one stage of the image network gives."""

    kernel: int  # the width of the user's kernels
    logit: float  # what the stage adds to the logit of a click
    places: list[float]  # the share of the attention at each place of the grid, row by row


@dataclass(frozen=True)
class Attention:
    """The attention of a user to a cover: a grid of `side` x `side` places over the square in its middle that the network saw."""

    side: int
    seen: float  # the side of that square, as a share of the cover's short side
    known: bool  # whether the ranker knows the user; for others it takes the mean of all users
    stages: list[StageAttention]

    @property
    def logit(self) -> float:
        return sum(stage.logit for stage in self.stages)

    @property
    def places(self) -> list[float]:
        """The attention of all stages together: each counts by the size of what it adds to the logit, or takes from it."""
        sizes = [abs(stage.logit) for stage in self.stages]
        shares = [size / sum(sizes) for size in sizes] if any(sizes) else [1 / len(sizes)] * len(sizes)
        grids = [stage.places for stage in self.stages]
        return [sum(share * place for share, place in zip(shares, row, strict=True)) for row in zip(*grids, strict=True)]


def attention(scorer: "Scorer", user_id: str, item: int) -> Attention | str:
    """The attention of a user to the cover of an item of the scorer, or a sentence that says why there is none."""
    kernels, encoder = scorer.model.user_kernels, scorer.item_encoder.maps
    if kernels is None or encoder is None:
        return "the ranker has no user kernels (ranker.user_kernels)"
    if not kernels.knows_maps_of(item):
        return "the video has no feature maps of its cover"
    user = scorer.users.index.get(user_id, 0)
    looks, shape = kernels.look(user, item), encoder.shape
    stages = [StageAttention(width, look.logit, look.attention) for width, look in zip(shape.kernels, looks, strict=True)]
    return Attention(shape.side, shape.seen, bool(scorer.users.categorical["user_id"][user]), stages)
