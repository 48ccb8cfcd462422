"""`conv_ncf`: collaborative filtering by convolution over an interaction map, as in the short-video CTR paper (see docs/papers.md).

It is ConvNCF (He et al., "Outer Product-based Neural Collaborative Filtering", 2018) with a choice of maps. From the vectors p of
the user and q of the video, of size K, comes a map of K x K:

- `outer`: p[a] q[b], the only map of He et al. (eq. 3)
- `difference`: p[a] - q[b]
- `stacked`: two channels, p[a] and q[b]

Convolutions of 2 x 2 with a stride of 2 halve the map until it is 1 x 1 (six for K = 64), and a last layer reads all of its
channels. `depth` sets fewer; the last layer then reads a larger map. With `head: mlp`, the control, the map is flattened into an
MLP of `ranker.hidden` instead. The other control, an MLP over the two vectors side by side, is the model `mlp`.

Shapes: B requests, N candidates, P pairs (B N), K embedding, C channels.
"""

from typing import Literal

import torch
from torch import nn

from rayrec.config import ConfigError, Count, Ranker
from rayrec.data.batches import Batch
from rayrec.data.fields import FieldTable, Tables
from rayrec.ranking.layers import Linear, mlp
from rayrec.ranking.model import RankingModel
from rayrec.ranking.pairs import PairOptions, Pairs

PAIRS_AT_ONCE = 2048  # whose maps are in memory together when nothing is learned: 32 MB for K = 64, four times that behind a layer


class ConvNCF(RankingModel):
    class Options(PairOptions):
        interaction_map: Literal["outer", "difference", "stacked"] = "outer"
        head: Literal["conv", "mlp"] = "conv"
        depth: Count | None = None  # convolutions; None: until the map is 1 x 1
        channels: Count = 32  # of each convolution, as in He et al.

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.interaction_map, size = options.interaction_map, settings.embedding_size
        channels = 2 if self.interaction_map == "stacked" else 1
        self.pairs = Pairs(settings, options.content, tables)
        if options.head == "mlp":
            self.network = nn.Sequential(nn.Flatten(), *mlp([channels * size**2, *settings.hidden], settings.dropout))
        else:
            depth = size.bit_length() - 1 if options.depth is None else options.depth
            if size % 2**depth:
                raise ConfigError(
                    f"ranker.embedding_size: {depth} convolutions halve a map of {size} x {size} unevenly; take a power of two, or "
                    "set ranker.options.depth lower"
                )
            self.network = convolutions(channels, options.channels, depth, size // 2**depth, settings.dropout)

    def append_items(self, table: FieldTable) -> None:
        self.pairs.append_items(table)

    def forward(self, batch: Batch) -> torch.Tensor:
        user_BK, candidates_BNK = self.pairs(batch)
        user_PK = user_BK.repeat_interleave(candidates_BNK.shape[1], 0)
        parts = zip(user_PK.split(PAIRS_AT_ONCE), candidates_BNK.flatten(0, 1).split(PAIRS_AT_ONCE), strict=True)
        return torch.cat([self.network(self.map(*part)) for part in parts]).view(candidates_BNK.shape[:2])

    def map(self, user_PK: torch.Tensor, item_PK: torch.Tensor) -> torch.Tensor:
        """The interaction maps of pairs [P, C, K, K]."""
        rows, columns = user_PK[:, None, :, None], item_PK[:, None, None, :]
        if self.interaction_map == "outer":
            return rows * columns
        if self.interaction_map == "difference":
            return rows - columns
        return torch.cat(torch.broadcast_tensors(rows, columns), 1)


def convolutions(channels: int, maps: int, depth: int, left: int, dropout: float) -> nn.Sequential:
    """`depth` halvings of a map, then a logit of all that is left of it: `maps` channels of `left` x `left`.

    The weights start so that the values keep their size from layer to layer (He et al., "Delving Deep into Rectifiers", 2015):
    with smaller ones, nothing of vectors as small as these at first would arrive behind six layers.
    """
    layers: list[nn.Module] = []
    for before in (channels, *[maps] * (depth - 1)):
        layer = nn.Conv2d(before, maps, kernel_size=2, stride=2)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), Linear(maps * left**2, 1))
