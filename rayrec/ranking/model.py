"""The interface of every ranker: logits for the candidates of a batch, the loss to train on, and the optimizer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from rayrec.config import Ranker, Section, Training
from rayrec.data.batches import Batch
from rayrec.data.fields import FieldTable, Tables
from rayrec.data.windows import HistoryWindow, LatestClicks
from rayrec.ranking.gathering import Rows
from rayrec.ranking.popularity import Popularity
from rayrec.ranking.user_kernels import UserKernels
from rayrec.registry import NoOptions
from rayrec.training.optimizers import LazyAdam


class RankingModel(nn.Module, ABC):
    """The base class of all models. `Options` are the settings that only this model has, `ranker.options` in the config."""

    Options: type[Section] = NoOptions

    def __init__(self, settings: Ranker, options: Section, tables: Tables) -> None:
        super().__init__()
        self.settings = settings
        self.popularity = Popularity(tables.popularity, len(settings.popularity)) if tables.popularity else None
        self.user_kernels = UserKernels(tables, settings.id_dropout) if settings.reads_maps else None

    @abstractmethod
    def forward(self, batch: Batch) -> torch.Tensor:
        """The click logits [B, N] of the model itself. Call `score` for those that count."""

    def score(self, batch: Batch) -> torch.Tensor:
        """The logits [B, N] by which candidates are trained, evaluated and served: `forward` and `with_additions`."""
        return self.with_additions(self(batch), batch)

    def page_score(self, batch: Batch) -> torch.Tensor:
        """The logits [B, N] by which a page ranks its candidates.

        With `ranker.shown_half_life` they are log(click probability * recent exposures): how likely it is that somebody comes
        across a video and clicks it.
        """
        logits_BN = self.score(batch)
        if self.settings.shown_half_life is None:
            return logits_BN
        assert self.popularity is not None
        return logsigmoid(logits_BN) + self.popularity.shown(batch)

    def with_additions(self, logits_BN: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Logits of `forward` with what popularity and the user's kernels add to them, where the settings ask for these."""
        if self.popularity is not None:
            logits_BN = logits_BN + self.popularity(batch)
        if self.user_kernels is not None and self.settings.user_kernels:
            logits_BN = logits_BN + self.user_kernels(batch.user, batch.candidates)
        return logits_BN

    def append_items(self, table: FieldTable) -> None:
        """More items behind those that the model was built for, without the row for "unknown" that leads the table.

        A model that looks items up elsewhere than in an `Inputs` called `inputs` overrides this.
        """
        self.inputs.append_items(table)  # type: ignore[union-attr, operator]

    def append_users(self, table: FieldTable) -> None:
        """More users behind those that the model was built for, until `drop_users`. They are in the modules called `users`."""
        for module in self._user_tables():
            module.append(table)  # type: ignore[operator]

    def drop_users(self) -> None:
        """Take away the users that were appended."""
        for module in self._user_tables():
            for rows in module.modules():
                if isinstance(rows, Rows):
                    rows.drop()

    def _user_tables(self) -> list[nn.Module]:
        return [module for name, module in self.named_modules() if name.rpartition(".")[2] == "users"]

    @property
    def window(self) -> HistoryWindow:
        """Which clicks of a history the batches for this model hold."""
        return LatestClicks(self.settings.history_length)

    def losses(self, batch: Batch) -> torch.Tensor:
        """The loss that training minimises, for each request [B]: `click_losses` of its candidates. `batch` has labels."""
        return self.label_losses(self.score(batch), batch)

    def label_losses(self, logits_BN: torch.Tensor, batch: Batch) -> torch.Tensor:
        """For each request [B] the loss of the logits of `score`. A model of several goals gives its body another one."""
        return click_losses(logits_BN, batch)

    def pretrain(self, train: Callable[["RankingModel", int], object]) -> None:
        """What comes before the training: `train` trains a model within this one by itself, for so many epochs."""

    def optimizer(self, settings: Training, parameters: Iterable[nn.Parameter] | None = None) -> torch.optim.Optimizer:
        """A new optimizer for these parameters, or for those of this model."""
        return LazyAdam(parameters or self.parameters(), settings.learning_rate, settings.weight_decay)


def click_losses(logits_BN: torch.Tensor, batch: Batch) -> torch.Tensor:
    """For each request [B] the sum of the log losses of its candidates, divided by N.

    All impressions and all drawn negatives weigh the same. A place where no negative was drawn (candidate 0) counts for nothing.
    """
    assert batch.labels is not None
    losses_BN = binary_cross_entropy_with_logits(logits_BN, batch.labels, reduction="none")
    if losses_BN.shape[1] == 1:
        return losses_BN.squeeze(1)
    empty_BN = batch.candidates == 0
    empty_BN[:, 0] = False  # the impression itself, of whatever video
    return losses_BN.masked_fill(empty_BN, 0).mean(1)
