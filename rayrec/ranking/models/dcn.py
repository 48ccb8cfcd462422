"""`dcn`: a cross network in parallel with an MLP, both over all fields x_0 of request, clicked videos and candidate.

Version 1: Wang et al., "Deep & Cross Network for Ad Click Predictions" (2017), eq. 3: x_(l+1) = x_0 (x_l^T w_l) + b_l + x_l.
Version 2: Wang et al., "DCN V2" (2021), eq. 1: x_(l+1) = x_0 * (W_l x_l + b_l) + x_l; with `rank`, W_l = U_l V_l^T (eq. 2).
In the parallel structure logit = w^T concat(x_L, h), with h the MLP's last hidden layer; that is the sum of a logit of each.

Shapes: B requests, N candidates, L layers, R / E sizes of a request / an item, X = R + E.
"""

from typing import Literal

import torch
from pydantic import model_validator
from torch import nn

from rayrec.config import Count, Ranker, Section
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.ranking.embedding import Inputs
from rayrec.ranking.layers import ClickedMean, RequestMLP
from rayrec.ranking.model import RankingModel


class DCN(RankingModel):
    class Options(Section):
        version: Literal[1, 2] = 1  # Pu et al. (see docs/papers.md) compare with the first
        layers: Count = 3
        rank: Count | None = None  # of the matrices of version 2; None is full rank

        @model_validator(mode="after")
        def _rank_of_a_matrix(self) -> "DCN.Options":
            if self.rank is not None and self.version == 1:
                raise ValueError("rank is for version 2: version 1 has no matrices")
            return self

    def __init__(self, settings: Ranker, options: Options, tables: Tables) -> None:
        super().__init__(settings, options, tables)
        self.inputs = Inputs(settings, tables, settings.embedding_size, settings.topic_size)
        self.clicked = ClickedMean(settings, self.inputs)
        sizes = self.clicked.request_size, self.inputs.item_size
        self.mlp = RequestMLP(*sizes, settings.hidden, settings.dropout)
        self.cross = (
            VectorCross(*sizes, options.layers) if options.version == 1 else MatrixCross(sum(sizes), options.layers, options.rank)
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.inputs(batch)
        request_BR = self.clicked.request(x)
        return self.clicked(x, self.cross(request_BR, x.candidates_BNE) + self.mlp.of_items(request_BR, x))


class VectorCross(nn.Module):
    """Version 1, w^T x_L. By induction x_l = a_l x_0 + c_l, with a number a_l for each candidate and c_l = b_0 + ... + b_(l-1).

    So the layers need only the dot products of x_0 with w_0 ... w_(L-1) and w: one thin matrix product, whose part for the request
    is computed once for all candidates.
    """

    def __init__(self, request_size: int, item_size: int, layers: int) -> None:
        super().__init__()
        size = request_size + item_size
        self.request_size = request_size
        self.weight = nn.Parameter(torch.empty(layers + 1, size).uniform_(-(size**-0.5), size**-0.5))  # w_0 ... w_(L-1), w
        self.bias = nn.Parameter(torch.zeros(layers, size))

    def forward(self, request_BR: torch.Tensor, candidates_BNE: torch.Tensor) -> torch.Tensor:
        of_request, of_candidate = self.weight[:, : self.request_size], self.weight[:, self.request_size :]
        dots_BNL = (request_BR @ of_request.T)[:, None] + candidates_BNE @ of_candidate.T
        shifts_L = (self.weight @ self.bias.T).tril(-1).sum(1)  # c_l^T w_l
        factor_BN = torch.ones_like(dots_BNL[..., 0])
        *crosses, output = zip(dots_BNL.unbind(-1), shifts_L, strict=True)
        for dot_BN, shift in crosses:
            factor_BN = factor_BN + factor_BN * dot_BN + shift
        return factor_BN * output[0] + output[1]


class MatrixCross(nn.Module):
    """Version 2, w^T x_L. It needs x_0 for each candidate: B N X numbers in each layer."""

    def __init__(self, size: int, layers: int, rank: int | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(size, size) if rank is None else nn.Sequential(nn.Linear(size, rank, bias=False), nn.Linear(rank, size))
            for _ in range(layers)
        )
        self.output = nn.Linear(size, 1, bias=False)

    def forward(self, request_BR: torch.Tensor, candidates_BNE: torch.Tensor) -> torch.Tensor:
        x0_BNX = torch.cat([request_BR[:, None].expand(-1, candidates_BNE.shape[1], -1), candidates_BNE], -1)
        x_BNX = x0_BNX
        for layer in self.layers:
            x_BNX = torch.addcmul(x_BNX, x0_BNX, layer(x_BNX))
        return self.output(x_BNX).squeeze(-1)
