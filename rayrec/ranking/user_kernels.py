"""Convolution kernels of each user's own over the feature maps of covers.

Li and Ding, "Method, Apparatus, Electronic Device, and Storage Medium for Recommending Multimedia Resource", patent application,
2020 (docs/papers.md).

The id of a user is embedded twice for each of the S stages of the image network, as two kernels of M x M numbers, where M is the
width of that stage's own kernels: K for interest, A for attention. Over the maps X of a stage, with C channels and P places,
F = conv(X, K) channel by channel, G = the sum over the channels of conv(X, A), both padded with zeros;
o = sum over p of softmax(G)_p * max over c of F_cp, and the logit is sum over the stages of r * o with the user's weights r.

A user's numbers are those of all users plus the user's own, which start at zero, so that who clicks little stays near the others. A
user whom training did not know has the mean over all whom it knew. A video without maps gets 0. While training, a share
`id_dropout` of the users counts as unknown, with the numbers of all users alone.

A convolution with a kernel is a product with a P x P matrix, which holds each number of the kernel at the places that are so far
apart. It is made once for each request, for all N candidates.

Shapes: B requests, N candidates, S stages, C channels, P places of a map, M the width of a kernel, K = M * M, W a user's numbers.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from rayrec.data.errors import DataError
from rayrec.data.fields import FieldTable, Tables
from rayrec.ranking.gathering import Rows


class UserKernels(nn.Module):
    """The logit that the kernels of the user give each candidate. Raises `DataError` if no video that training saw has maps."""

    def __init__(self, tables: Tables, id_dropout: float) -> None:
        super().__init__()
        maps = tables.items.maps.get("cover")
        if maps is None:
            raise DataError(
                "ranker.user_kernels: no video of the training split has feature maps of its cover; run `rayrec extract CONFIG` "
                "with features.image.maps set, or choose a ranker without user kernels"
            )
        self.id_dropout = id_dropout
        self.side = round(maps.shape[-1] ** 0.5)
        self.widths = tables.items.kernels
        self.dimensions = maps.shape[1:]  # S, C, P
        self.maps = Rows(maps.flatten(1))  # float16 [items, S * C * P], flat because rows are found faster so
        self.users = UserIds(tables.users)
        stages = len(self.widths)
        sizes = [width**2 for width in self.widths]
        self.sizes = [*sizes, *sizes, stages]  # of W: the kernels of interest, those of attention, and r
        self.all_users = nn.Parameter(torch.zeros(sum(self.sizes)))
        for kernel, width in zip(self.all_users.data.split(self.sizes), self.widths, strict=False):
            nn.init.normal_(kernel, std=1 / width)  # so that F is as large as X
        self.own = OwnNumbers(tables.users.sizes["user_id"], sum(self.sizes))
        for width in set(self.widths):
            self.register_buffer(f"shifts_{width}", shifts(self.side, width), persistent=False)

    def forward(self, users_B: torch.Tensor, candidates_BN: torch.Tensor) -> torch.Tensor:
        """The logits [B, N]."""
        return torch.stack([stage.logit_BN for stage in self._stages(users_B, candidates_BN)]).sum(0)

    def numbers(self, users_B: torch.Tensor) -> list[torch.Tensor]:
        """The kernels of interest [B, K] of each stage, those of attention [B, K] of each stage, and the weights r [B, S]."""
        value_B = self.users.values[users_B].squeeze(-1)
        if self.training:
            value_B = value_B.masked_fill(torch.rand(len(value_B), device=value_B.device) < self.id_dropout, 0)
        own_BW = self.own(value_B)
        return list((self.all_users + own_BW).split(self.sizes, -1))

    @torch.inference_mode()
    def look(self, user: int, item: int) -> "list[StageLook]":
        """Where a user looks at the cover of a video, in each stage."""
        device = self.all_users.device
        stages = self._stages(torch.tensor([user], device=device), torch.tensor([[item]], device=device))
        return [StageLook(stage.attention_BNP[0, 0].tolist(), float(stage.logit_BN[0, 0])) for stage in stages]

    def knows_maps_of(self, item: int) -> bool:
        return bool(self.maps[torch.tensor([item], device=self.all_users.device)].any())

    def append_items(self, table: FieldTable) -> None:
        self.maps.append(table.maps["cover"][1:].flatten(1))

    def _stages(self, users_B: torch.Tensor, candidates_BN: torch.Tensor) -> "list[_Stage]":
        numbers, count = self.numbers(users_B), len(self.widths)
        maps_BNSCP = self.maps[candidates_BN].unflatten(-1, self.dimensions)
        return [
            self._stage(
                maps_BNCP.to(self.all_users.dtype),
                numbers[stage],
                numbers[count + stage],
                numbers[-1][:, stage],
                self.widths[stage],
            )
            for stage, maps_BNCP in enumerate(maps_BNSCP.unbind(2))
        ]

    def _stage(
        self, maps_BNCP: torch.Tensor, interest_BK: torch.Tensor, attention_BK: torch.Tensor, weight_B: torch.Tensor, width: int
    ) -> "_Stage":
        shifts_KPP = getattr(self, f"shifts_{width}")
        first_BNCP = _convolved(maps_BNCP.flatten(1, 2), interest_BK, shifts_KPP).view_as(maps_BNCP)
        second_BNP = _convolved(maps_BNCP.sum(2), attention_BK, shifts_KPP)
        attention_BNP = torch.softmax(second_BNP, -1)
        preference_BN = (attention_BNP * first_BNCP.amax(2)).sum(-1)
        return _Stage(attention_BNP, weight_B[:, None] * preference_BN)


@dataclass(frozen=True)
class StageLook:
    """What one stage of the image network gives for a user and a video."""

    attention: list[float]  # a share for each place of the map, row by row
    logit: float  # what the stage adds to the logit


@dataclass(frozen=True)
class _Stage:
    attention_BNP: torch.Tensor
    logit_BN: torch.Tensor


class UserIds(nn.Module):
    """The number of each user's id, 0 for users whom training did not know. `RankingModel.append_users` finds it by its name."""

    def __init__(self, table: FieldTable) -> None:
        super().__init__()
        self.values = Rows(table.categorical["user_id"][:, None])

    def append(self, table: FieldTable) -> None:
        self.values.append(table.categorical["user_id"][1:, None])


class OwnNumbers(nn.Module):
    """What the numbers of each user have beside those of all users: zeros at first, with sparse gradients."""

    sparse = True

    def __init__(self, users: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(users, size))  # the first row, of an unknown user, is not used
        self._mean: torch.Tensor | None = None

    def forward(self, values_B: torch.Tensor) -> torch.Tensor:
        """float32 [B, W]. While training, an unknown user has zeros, and otherwise the mean of all users."""
        own_BW = functional.embedding(values_B, self.weight, sparse=True)
        unknown_B1 = (values_B == 0)[:, None]
        if self.training or not unknown_B1.any():
            return own_BW.masked_fill(unknown_B1, 0)
        return torch.where(unknown_B1, self.mean(), own_BW)

    def mean(self) -> torch.Tensor:
        """The mean [W], which is kept until the weights change."""
        if self._mean is None or self._mean.device != self.weight.device:
            with torch.inference_mode(False), torch.no_grad():
                self._mean = self.weight[1:].mean(0) if len(self.weight) > 1 else self.weight[0]
        return self._mean

    def train(self, mode: bool = True) -> "OwnNumbers":
        if mode:
            self._mean = None
        return super().train(mode)

    def _load_from_state_dict(self, *arguments: object) -> None:
        self._mean = None
        super()._load_from_state_dict(*arguments)


def shifts(side: int, width: int) -> torch.Tensor:
    """The matrices of a convolution, 0 or 1 [K, P, P]: number k of a kernel takes what is at one place of a map to another.

    Maps of `side` x `side` are padded with zeros; if the width is even, with one more row and column at the end.
    """
    rows = torch.arange(side)
    before = (width - 1) // 2
    along_MSS = torch.stack([rows[:, None] == rows + step - before for step in range(width)]).float()  # [step, from, to]
    both = torch.einsum("mft,ngu->mnfgtu", along_MSS, along_MSS)  # rows and columns: steps, from, to
    return both.flatten(4, 5).flatten(2, 3).flatten(0, 1)


def _convolved(maps_BXP: torch.Tensor, kernel_BK: torch.Tensor, shifts_KPP: torch.Tensor) -> torch.Tensor:
    """Each map convolved with the kernel of its request."""
    places = shifts_KPP.shape[-1]
    matrix_BPP = (kernel_BK @ shifts_KPP.flatten(1)).view(-1, places, places)
    return maps_BXP @ matrix_BPP
