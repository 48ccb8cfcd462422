"""`conv_ncf`: collaborative filtering by convolution over an interaction map, as in the short-video CTR paper (see docs/papers.md).

It is ConvNCF (He et al., "Outer Product-based Neural Collaborative Filtering", 2018) with a choice of maps. From the vectors p of
the user and q of the video, of size K, comes a map of K x K:

- `outer`: p[a] q[b], the only map of He et al. (eq. 3)
- `difference`: p[a] - q[b]
- `stacked`: two channels, p[a] and q[b]

Convolutions of 2 x 2 with a stride of 2 halve the map until it is 1 x 1 (six for K = 64), and a last layer reads all of its
channels. `depth` sets fewer; the last layer then reads a larger map. With `head: mlp`, the control, the map is flattened into an
MLP of `ranker.hidden` instead. The other control, an MLP over the two vectors side by side, is the model `mlp`.

The squares of 2 x 2 that such a convolution reads don't overlap, so it is a linear layer over each square. The places of a map are
therefore held in the order in which every square of every layer is four places in a row (the Z-order curve): each convolution is
then one matrix product over the memory as it lies, and copies nothing.

Shapes: B requests, N candidates, P pairs (B N), K embedding, C channels, Q places of a map, in Z-order.
"""

from typing import Literal

import torch
from torch import nn
from torch.nn.functional import linear

from rayrec.config import ConfigError, Count, Ranker
from rayrec.data.batches import Batch
from rayrec.data.fields import FieldTable, Tables
from rayrec.ranking.layers import Head, mlp
from rayrec.ranking.model import RankingModel
from rayrec.ranking.pairs import PairOptions, Pairs

# Pairs whose maps are in memory together, when nothing is learned: 256 MB behind the first layer for K = 64. On a CPU they are so
# few that a core's cache holds what a layer hands to the next.
PAIRS_AT_ONCE = {"cpu": 64, "cuda": 2048}


class ConvNCF(RankingModel):
    class Options(PairOptions):
        interaction_map: Literal["outer", "difference", "stacked"] = "outer"
        head: Literal["conv", "mlp"] = "conv"
        depth: Count | None = None  # convolutions; None: until the map is 1 x 1
        channels: Count = 32  # of each convolution, as in He et al.

    rows_Q: torch.Tensor  # int64: the row of each place of a map
    columns_Q: torch.Tensor

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.interaction_map, size = options.interaction_map, settings.embedding_size
        channels = 2 if self.interaction_map == "stacked" else 1
        self.pairs = Pairs(settings, options.content, tables)
        depth = (size.bit_length() - 1 if options.depth is None else options.depth) if options.head == "conv" else 0
        if size % 2**depth:
            raise ConfigError(
                f"ranker.embedding_size: {depth} convolutions halve a map of {size} x {size} unevenly; take a power of two, or "
                "set ranker.options.depth lower"
            )
        if options.head == "mlp":
            self.network = nn.Sequential(Channels(), *mlp([channels * size**2, *settings.hidden], settings.dropout))
        else:
            self.network = convolutions(channels, options.channels, depth, size // 2**depth, settings.dropout)
        for name, places in zip(("rows_Q", "columns_Q"), squares_in_a_row(size, depth), strict=True):
            self.register_buffer(name, places, persistent=False)

    def append_items(self, table: FieldTable) -> None:
        self.pairs.append_items(table)

    def forward(self, batch: Batch) -> torch.Tensor:
        user_BK, candidates_BNK = self.pairs(batch)
        user_PK = user_BK.repeat_interleave(candidates_BNK.shape[1], 0)
        size = PAIRS_AT_ONCE[user_PK.device.type]
        parts = zip(user_PK.split(size), candidates_BNK.flatten(0, 1).split(size), strict=True)
        return torch.cat([self.network(self.map(*part)) for part in parts]).view(candidates_BNK.shape[:2])

    def map(self, user_PK: torch.Tensor, item_PK: torch.Tensor) -> torch.Tensor:
        """The interaction maps of pairs [P, Q, C]."""
        rows_PQ, columns_PQ = user_PK.index_select(1, self.rows_Q), item_PK.index_select(1, self.columns_Q)
        if self.interaction_map == "outer":
            return (rows_PQ * columns_PQ).unsqueeze(2)
        if self.interaction_map == "difference":
            return (rows_PQ - columns_PQ).unsqueeze(2)
        return torch.stack([rows_PQ, columns_PQ], 2)


class Halving(nn.Conv2d):
    """A convolution of 2 x 2 with a stride of 2, over places in Z-order: [P, Q, C] -> [P, Q / 4, `maps`]."""

    def __init__(self, channels: int, maps: int) -> None:
        super().__init__(channels, maps, kernel_size=2, stride=2)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, x_PQC: torch.Tensor) -> torch.Tensor:
        pairs, places, channels = x_PQC.shape
        squares = x_PQC.reshape(pairs, places // 4, 4 * channels)
        return linear(squares, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)


class Channels(nn.Module):
    """All places of one channel after the other: [P, Q, C] -> [P, C Q]."""

    def forward(self, x_PQC: torch.Tensor) -> torch.Tensor:
        return x_PQC.mT.flatten(1)


def squares_in_a_row(size: int, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The row and the column of each place of a map in Z-order: int64 [Q] each.

    Four places in a row make a square of 2 x 2, four such squares a square of 4 x 4, and so on, `depth` times. The squares that are
    then left follow one another row by row.
    """
    place = torch.arange(size**2).view(size, size)
    for level in range(depth):
        side = size >> level  # of what is in squares of 2^level; the places of each are the last dimension
        place = place.view(side // 2, 2, side // 2, 2, -1).transpose(1, 2).reshape(side // 2, side // 2, -1)
    return place.flatten() // size, place.flatten() % size


def convolutions(channels: int, maps: int, depth: int, left: int, dropout: float) -> nn.Sequential:
    """`depth` halvings of a map, then a logit of all that is left of it: `maps` channels of `left` x `left`.

    The weights start so that the values keep their size from layer to layer (He et al., "Delving Deep into Rectifiers", 2015):
    with smaller ones, nothing of vectors as small as these at first would arrive behind six layers.
    """
    layers: list[nn.Module] = []
    for before in (channels, *[maps] * (depth - 1)):
        layers += [Halving(before, maps), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, Channels(), nn.Dropout(dropout), Head(maps * left**2))
