"""`user_kernel`: the patent application by Li and Ding on convolution kernels of users (docs/papers.md), by itself.

logit = b + the logit of the kernels that each user has over the feature maps of a video's cover (`UserKernels`), and nothing else:
no field of users, videos and context, and no history. `ranker.user_kernels: true` adds the same kernels to any other model.
"""

import torch
from torch import nn

from rayrec.config import Ranker, Section
from rayrec.data.batches import Batch
from rayrec.data.fields import FieldTable, Tables
from rayrec.ranking.model import RankingModel


class UserKernel(RankingModel):
    def __init__(self, settings: Ranker, options: Section, tables: Tables) -> None:
        super().__init__(settings.model_copy(update={"user_kernels": False}), options, tables)  # they are in `forward` already
        self.bias = nn.Parameter(torch.zeros(()))

    def append_items(self, table: FieldTable) -> None:
        """There is nothing but the maps, which `UserKernels` has."""

    def forward(self, batch: Batch) -> torch.Tensor:
        assert self.user_kernels is not None  # which this model reads whatever the settings say
        return self.bias + self.user_kernels(batch.user, batch.candidates)
