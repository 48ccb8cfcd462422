"""What every ranker is: logits for the candidates of a batch, the loss that trains them, and the optimizer that does."""

from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rayrec.config import Ranker, Section, Training
from rayrec.data.batches import Batch
from rayrec.data.fields import Tables
from rayrec.training.optimizers import LazyAdam


class NoOptions(Section):
    """Of a model that `ranker` alone describes."""


class RankingModel(nn.Module, ABC):
    """The base of `models/`. `Options` are the settings that a model alone has: the mapping `ranker.options` of the config."""

    Options: type[Section] = NoOptions

    def __init__(self, settings: Ranker, options: Section, tables: Tables) -> None:
        super().__init__()
        self.settings = settings

    @abstractmethod
    def forward(self, batch: Batch) -> torch.Tensor:
        """Click logits [B, N]."""

    def losses(self, batch: Batch) -> torch.Tensor:
        """What training makes small, for each request [B]: the mean log loss of its candidates. `batch` has labels."""
        assert batch.labels is not None
        return binary_cross_entropy_with_logits(self(batch), batch.labels, reduction="none").mean(1)

    def optimizer(self, settings: Training) -> torch.optim.Optimizer:
        return LazyAdam(self.parameters(), settings.learning_rate, settings.weight_decay)
