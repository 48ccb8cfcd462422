"""One network for several goals: any model as the body, and a tower for each goal.

The body computes its logit as it always does. Its last hidden layers, which its `Head`s read (and `HistoryTop`, where the history
enters at the top), are also read by the network of `ranker.goal_network` and the tower of each goal. The outputs of a goal are

    a * the body's logit + b + its tower

with numbers a (1 at first) and b of its own. So what a model adds up beside its hidden layers (the weights of fields, pairs and
crosses, popularity, kernels of users) counts for all goals. A model without a `Head` (`lr`, `fm`, `acf`, `user_kernel`) has no
hidden layer that goals could share: there is a body for each goal, whose logit is the goal's output but for b.

Losses, for a label y:
- log: the log loss, of y from 0 to 1. The value of the goal is the probability.
- weighted_logistic: -y log p - log(1 - p), after Covington et al., "Deep Neural Networks for YouTube Recommendations" (2016),
  section 4.2. Every impression also counts once as one that was not watched, so that the odds p / (1 - p), the value of the goal,
  are the mean of y for any share of clicks, and not for rare ones alone.
- quantiles: the pinball loss of each quantile, whose values begin at 0 and never cross; the value of the goal is the mean of the
  distribution that they draw, as in Lin et al., "Conditional Quantile Estimation for Uncertain Watch Time in Short-Video
  Recommendation" (2024).

Shapes: B requests, N candidates, G goals, O outputs of all goals together, X what is read of the body.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, pad, softplus

from rayrec.config import Goal, Ranker, Training
from rayrec.data.batches import Batch
from rayrec.data.fields import FieldTable
from rayrec.data.windows import HistoryWindow
from rayrec.ranking.goal_networks import KINDS
from rayrec.ranking.layers import Head, HistoryTop, Linear, mlp_layers
from rayrec.ranking.model import RankingModel
from rayrec.ranking.popularity import Popularity
from rayrec.ranking.user_kernels import UserKernels

MAX_LOG_ODDS = 15.0  # of a weighted logistic goal: 38 days of seconds, beyond which odds are no longer told apart


class SeveralGoals(RankingModel):
    """A `RankingModel` whose `forward` and `score` give outputs [B, N, O]."""

    def __init__(self, settings: Ranker, body: Callable[[], RankingModel]) -> None:
        """`body` builds a model of its own at each call."""
        nn.Module.__init__(self)
        self.settings, self.goals = settings, list(settings.goals.values())
        first = body()
        self.read = [module for module in first.modules() if isinstance(module, Head | HistoryTop)]
        shared = any(isinstance(module, Head) for module in self.read)
        self.bodies = nn.ModuleList([first] if shared else [first, *(body() for _ in self.goals[1:])])
        self.sizes = [goal.outputs for goal in self.goals]
        self.shift = nn.Parameter(torch.zeros(sum(self.sizes)))
        self.network: nn.Module | None = None
        if shared:
            self.scale = nn.Parameter(torch.ones(sum(self.sizes)))
            network, size = settings.goal_network, sum(_size(module) for module in self.read)
            self.network = KINDS[network.kind](network, size, len(self.goals))
            sizes = [network.expert_size, *network.tower]
            self.towers = nn.ModuleList(
                nn.Sequential(*mlp_layers(sizes, settings.dropout), Linear(sizes[-1], outputs)) for outputs in self.sizes
            )
            first.label_losses = self._losses_of_towers  # type: ignore[method-assign]
        self._seen: dict[nn.Module, list[torch.Tensor]] = {}

    # --- what a ranking model has ---

    popularity: Popularity | None = None  # the bodies have it

    @property
    def models(self) -> list[RankingModel]:
        """The bodies."""
        return cast(list[RankingModel], list(self.bodies))

    @property
    def user_kernels(self) -> UserKernels | None:  # type: ignore[override]
        """Those of the first body."""
        return self.models[0].user_kernels

    @property
    def window(self) -> HistoryWindow:
        return self.models[0].window

    def append_items(self, table: FieldTable) -> None:
        for number, body in enumerate(self.models):
            body.append_items(table)
            if number and body.user_kernels is not None:  # the first one's are appended to by the scorer
                body.user_kernels.append_items(table)

    def optimizer(self, settings: Training, parameters: Iterable[nn.Parameter] | None = None) -> torch.optim.Optimizer:
        return self.models[0].optimizer(settings, parameters or self.parameters())

    def pretrain(self, train: Callable[[RankingModel, int], object]) -> None:
        for body in self.models:
            body.pretrain(train)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The outputs [B, N, O]."""
        with self._reading():
            return self._outputs([body.score(batch) for body in self.models])

    def score(self, batch: Batch) -> torch.Tensor:
        """The outputs [B, N, O], to which popularity and the kernels of users have been added already."""
        return self(batch)

    def page_score(self, batch: Batch) -> torch.Tensor:
        """The logits [B, N] of the click: lists of items are made and compared by it."""
        return self.score(batch)[..., sum(self.sizes[: self.settings.click_goal])]

    def losses(self, batch: Batch) -> torch.Tensor:
        if self.network is None:
            return self._goal_losses(self(batch), batch)
        with self._reading():
            return self.models[0].losses(batch)

    # --- goals ---

    def values(self, batch: Batch) -> torch.Tensor:
        """The value of each goal [B, N, G]: a probability, or the expected number."""
        outputs = self.score(batch).float().split(self.sizes, -1)
        return torch.stack([_value(goal, of_goal) for goal, of_goal in zip(self.goals, outputs, strict=True)], -1)

    def _outputs(self, logits: list[torch.Tensor]) -> torch.Tensor:
        """The outputs [B, N, O] from the logits [B, N] of the bodies and what was read of them."""
        if self.network is None:
            of_bodies = [logits_BN[..., None].expand(-1, -1, size) for logits_BN, size in zip(logits, self.sizes, strict=True)]
            return torch.cat(of_bodies, -1) + self.shift
        hidden_BNX = torch.cat([_rows(self._seen[module], logits[0]) for module in self.read], -1)
        towers = [tower(mixed) for tower, mixed in zip(self.towers, self.network(hidden_BNX), strict=True)]
        return self.scale * logits[0][..., None] + self.shift + torch.cat(towers, -1)

    def _losses_of_towers(self, logits_BN: torch.Tensor, batch: Batch) -> torch.Tensor:
        """In place of the body's own loss of its logits."""
        return self._goal_losses(self._outputs([logits_BN]), batch)

    def _goal_losses(self, outputs_BNO: torch.Tensor, batch: Batch) -> torch.Tensor:
        """For each request [B] the sum of its candidates' losses, each goal's by its weight, divided by N.

        A candidate without a label adds nothing to the loss of the goal, and a place where no negative was drawn (candidate 0)
        nothing at all.
        """
        assert batch.goals is not None
        empty_BN = batch.candidates == 0
        empty_BN[:, 0] = False  # the impression itself, of whatever video
        total_BN = torch.zeros_like(outputs_BNO[..., 0], dtype=torch.float32)
        for goal, outputs, label_BN in zip(
            self.goals, outputs_BNO.float().split(self.sizes, -1), batch.goals.unbind(-1), strict=True
        ):
            left_out_BN = empty_BN | label_BN.isnan()
            losses_BN = _losses(goal, outputs, label_BN.masked_fill(left_out_BN, 0))
            total_BN = total_BN + goal.weight * losses_BN.masked_fill(left_out_BN, 0)
        return total_BN.mean(1)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Keeps what the body's last layers read while the block runs."""
        self._seen = {module: [] for module in self.read}

        def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._seen[module].append(inputs[0])

        hooks = [module.register_forward_pre_hook(keep) for module in self.read] if self.network is not None else []
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._seen = {}


def _size(module: Head | HistoryTop) -> int:
    return (module.linear if isinstance(module, HistoryTop) else module).in_features


def _rows(seen: list[torch.Tensor], logits_BN: torch.Tensor) -> torch.Tensor:
    """What a layer read in one or several calls, [B, X], [B, N, X] or [B N, X] in all, as [B, N, X]."""
    requests, candidates = logits_BN.shape
    rows = torch.cat(seen)
    if rows.ndim == 2 and len(rows) == requests and candidates > 1:
        return rows[:, None].expand(-1, candidates, -1)
    return rows.reshape(requests, candidates, rows.shape[-1])


def _losses(goal: Goal, outputs_BNO: torch.Tensor, label_BN: torch.Tensor) -> torch.Tensor:
    """The losses [B, N]."""
    if goal.loss == "log":
        return binary_cross_entropy_with_logits(outputs_BNO[..., 0], label_BN, reduction="none")
    if goal.loss == "weighted_logistic":
        logit_BN = outputs_BNO[..., 0]
        return -label_BN * logsigmoid(logit_BN) - logsigmoid(-logit_BN)
    below_BNO = label_BN[..., None] - _quantiles(outputs_BNO)
    levels = outputs_BNO.new_tensor(goal.quantiles)
    return torch.maximum(levels * below_BNO, (levels - 1) * below_BNO).mean(-1)


def _value(goal: Goal, outputs_BNO: torch.Tensor) -> torch.Tensor:
    """The value [B, N]."""
    if goal.loss == "log":
        return torch.sigmoid(outputs_BNO[..., 0])
    if goal.loss == "weighted_logistic":
        return outputs_BNO[..., 0].clamp(max=MAX_LOG_ODDS).exp()
    levels = outputs_BNO.new_tensor(goal.quantiles)
    ends = pad((levels[1:] + levels[:-1]) / 2, (1, 1))
    ends[-1] = 1  # each quantile stands for the shares up to halfway to its neighbours
    return _quantiles(outputs_BNO) @ (ends[1:] - ends[:-1])


def _quantiles(outputs_BNO: torch.Tensor) -> torch.Tensor:
    """Ascending numbers from 0 on."""
    return softplus(outputs_BNO).cumsum(-1)
