"""The batch contract: a ranker scores N candidates for each of B requests.

Training on single impressions is N=1, serving is N=600 with B=1..k; a model has one `forward` for both. Users and items are row
numbers of the model's own tables, in which row 0 stands for "unknown user" and for "no item" (padding).
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batch:
    """B requests with N candidates each and the H latest clicks before each request, oldest first.

    A history is 0-padded on the left; in training, clicks may be hidden (0) anywhere in it, whose times stay.
    """

    user: torch.Tensor  # int64 [B]
    at: torch.Tensor  # int64 [B], UTC ms
    history: torch.Tensor  # int64 [B, H]
    history_at: torch.Tensor  # int64 [B, H], UTC ms, 0 where padded
    context: torch.Tensor  # int64 [B, C], the value of each context field
    candidates: torch.Tensor  # int64 [B, N]
    labels: torch.Tensor | None = None  # float32 [B, N], 1 = clicked

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(
            self.user.to(device),
            self.at.to(device),
            self.history.to(device),
            self.history_at.to(device),
            self.context.to(device),
            self.candidates.to(device),
            None if self.labels is None else self.labels.to(device),
        )
