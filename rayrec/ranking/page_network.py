"""`ranker.page_network`: two networks of one kind, one for the clicks on what people are shown, and one that chooses their page.

Among all videos, what people would click depends on who comes across what; among videos that they are shown, on what they like
there. One logit can't say both: with drawn negatives it tells what is watched from what is not, and orders what was shown less
well. Ma et al., "Entire Space Multi-Task Model", SIGIR 2018, tell the two apart in the same way, but share the embeddings, which
here would let one task decide when the other one stops.
"""

from collections.abc import Callable

import torch

from rayrec.config import Ranker, Training
from rayrec.data.batches import Batch
from rayrec.data.fields import FieldTable
from rayrec.data.windows import HistoryWindow
from rayrec.ranking.model import RankingModel


class WithPageNetwork(RankingModel):
    """The logits of clicks are those of `clicks`, which learns from impressions alone. `page` learns from drawn negatives too."""

    draws_negatives = False

    def __init__(self, settings: Ranker, clicks: RankingModel, page: RankingModel) -> None:
        torch.nn.Module.__init__(self)
        self.settings, self.popularity = settings, None  # the networks have their own
        self.clicks, self.page = clicks, page

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.clicks(batch)

    def score(self, batch: Batch) -> torch.Tensor:
        return self.clicks.score(batch)

    def page_score(self, batch: Batch) -> torch.Tensor:
        return self.page.score(batch)

    @property
    def window(self) -> HistoryWindow:
        return self.clicks.window

    def losses(self, batch: Batch) -> torch.Tensor:
        return self.clicks.losses(batch)

    def expect_negatives(self) -> None:
        self.page.expect_negatives()

    def pretrain(self, train: Callable[[RankingModel, int], object], epochs: int) -> None:
        """Trains the network of the page, which stops by itself."""
        self.page.pretrain(train, epochs)
        train(self.page, epochs)
        self.clicks.pretrain(train, epochs)

    def optimizer(self, settings: Training) -> torch.optim.Optimizer:
        return self.clicks.optimizer(settings)

    def append_items(self, table: FieldTable) -> None:
        for network in (self.clicks, self.page):
            network.append_items(table)
