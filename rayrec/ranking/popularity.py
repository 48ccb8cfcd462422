"""What popularity adds to the logits of every model: a weighted sum of how much a video was clicked lately.

For each half-life there are two numbers, from sums of exposures E and clicks C in which a count fades by half in that time
(`data/popularity.py`): log((C + 1) / (c + 1)), where c is the mean of C over all videos, and log((C + 10 r) / (E + 10) / r), where
r is the click rate of all. Both compare a video with the others at that time, so that they do not drift while a log grows.

What is known may end days before a request: a bundle has what its log knew. That nothing is known of these days does not mean that
nothing was clicked, so that counts fade no further than to the end of the last day that has any.

Shapes: B requests, N candidates, P half-lives.
"""

import torch
from torch import nn

from rayrec.data.batches import Batch
from rayrec.data.context import DAY_MS
from rayrec.data.popularity import DAYS, FadingCounts

PRIOR = 10.0  # exposures with the click rate of all, which every video has on top of its own


class Popularity(nn.Module):
    """The logit of popularity. The counts are kept beside the weights, on the same device."""

    key: torch.Tensor
    sums: torch.Tensor
    half_lives: torch.Tensor

    def __init__(self, counts: FadingCounts, learned: int) -> None:
        """The first half-lives of the counts, so many, are `learned` from. The page reads the last one (`shown`)."""
        super().__init__()
        self.learned = learned
        self.items = counts.items
        last = counts.key[counts.key < DAYS].max(initial=-1)  # of item 0, all items together
        self.end = int(last) + 1  # the first day of which nothing is known
        for name in ("key", "sums", "half_lives"):
            self.register_buffer(name, torch.from_numpy(getattr(counts, name)), persistent=False)
        if learned:
            self.weights = nn.Linear(2 * learned, 1, bias=False)
            nn.init.zeros_(self.weights.weight)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The logits [B, N] of the candidates at the times of their requests."""
        if not self.learned:
            return self.sums.new_zeros(batch.candidates.shape)
        clicks, rates = self.numbers(batch.at, batch.candidates).chunk(2, -1)
        return self.weights(torch.cat([clicks[..., : self.learned], rates[..., : self.learned]], -1)).squeeze(-1)

    def shown(self, batch: Batch) -> torch.Tensor:
        """log((E + 1) / (e + 1)) of the candidates at the times of their requests, where e is the mean of E: [B, N]."""
        day_B1 = self._days(batch.at)
        shown_BN = self._sums(batch.candidates, day_B1)[..., 0, -1]
        all_shown_B1 = self._sums(torch.zeros_like(day_B1), day_B1)[..., 0, -1]
        return torch.log((shown_BN + 1) / (all_shown_B1 / max(self.items, 1) + 1))

    def numbers(self, at_B: torch.Tensor, items_BN: torch.Tensor) -> torch.Tensor:
        """The two numbers for each half-life: float32 [B, N, 2 P]."""
        day_B1 = self._days(at_B)
        shown_BNP, clicked_BNP = self._sums(items_BN, day_B1).unbind(2)
        all_shown_B1P, all_clicked_B1P = self._sums(torch.zeros_like(day_B1), day_B1).unbind(2)
        rate_B1P = (all_clicked_B1P + 1) / (all_shown_B1P + 1)
        clicks = torch.log((clicked_BNP + 1) / (all_clicked_B1P / max(self.items, 1) + 1))
        rates = torch.log((clicked_BNP / rate_B1P + PRIOR) / (shown_BNP + PRIOR))
        return torch.cat([clicks, rates], -1)

    def _days(self, at_B: torch.Tensor) -> torch.Tensor:
        """The days of these times [B, 1], no later than the first day of which nothing is known."""
        return (at_B // DAY_MS).clamp(max=self.end)[:, None]

    def _sums(self, items_BN: torch.Tensor, day_B1: torch.Tensor) -> torch.Tensor:
        """The faded exposures and clicks of items, of the days before a day: float32 [B, N, 2, P]."""
        if not len(self.key):
            return self.sums.new_zeros(*items_BN.shape, *self.sums.shape[1:])
        row = torch.searchsorted(self.key, items_BN * DAYS + day_B1) - 1  # the latest row before the day
        key = self.key[row.clamp(min=0)]
        known = (row >= 0) & (key // DAYS == items_BN)
        days = (day_B1 - key % DAYS).clamp(min=0)  # below 0 where the row is another item's, and then perhaps without bound
        fade = torch.exp2(-days[..., None] / self.half_lives)
        return self.sums[row.clamp(min=0)] * (fade * known[..., None]).unsqueeze(-2)
