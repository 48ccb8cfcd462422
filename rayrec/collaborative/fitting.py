"""Trains models whose vectors of users and items are learned step by step: their batches, drawn negatives, and early stopping.

The best epoch is the one with the best NDCG@20 on the held-out clicks, all items ranked but those clicked before. Without such
clicks the last epoch counts. Every worker draws the whole batch and takes its own share, so that any number of workers trains the
same model.

Shapes: P pairs of a batch, M clicks of a batch of all workers, B users of a batch, L likes of theirs, U users, I items, S numbers
of a vector.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Generic, TypeVar

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor, nn

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import Fitting
from rayrec.config import Count, Section
from rayrec.training.callbacks import Epoch
from rayrec.training.metrics import ranking_at_k
from rayrec.training.optimizers import LazyAdam
from rayrec.training.trainable import Trainable

K = 20
RECALL, NDCG = f"validation_recall_at_{K}", f"validation_ndcg_at_{K}"
USERS_AT_ONCE = 1024  # who are ranked for at once
DRAWS = 8  # at most, of a negative that the user has clicked; after that it stays


class StepOptions(Section):
    """The options that all models have which learn step by step. The defaults of a model suit the data that it was tried on."""

    size: Count = 64  # of the vectors
    epochs: Count = 200
    patience: Count = 10  # epochs without a better NDCG@20 on the held-out clicks after which training stops
    batch_size: Count = 4096  # of all workers together
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


@dataclass(frozen=True)
class Pairs:
    """Clicks, and for each an item that its user has not clicked: int64 [P] each."""

    user: Tensor
    item: Tensor
    negative: Tensor


@dataclass(frozen=True)
class Users:
    """Some users and all that they have clicked: like number l is of user `user_B[row_L[l]]`."""

    user_B: Tensor  # int64
    row_L: Tensor  # int64
    item_L: Tensor  # int64


@dataclass(frozen=True)
class InBatch:
    """Clicks among those of a whole batch: int64 [P] each, and [M] for the batch."""

    user: Tensor
    item: Tensor
    place: Tensor  # of the click in the batch
    items: Tensor  # those of the batch


Batch = TypeVar("Batch")  # `Pairs`, `Users` or `InBatch`


class Network(nn.Module, ABC, Generic[Batch]):
    """Vectors of users and items, whose products say how much a user would like an item."""

    @abstractmethod
    def vectors(self) -> tuple[Tensor, Tensor]:
        """Of all users [U, S], and of all items [I, S]."""

    @abstractmethod
    def losses(self, batch: Batch) -> Tensor:
        """The loss of each pair [P], or of each like [L]."""


class TrainableVectors(Trainable[Batch]):
    """A network with the feedback that it learns from. Subclasses make the batches."""

    def __init__(self, network: Network[Batch], feedback: Feedback, options: StepOptions, fitting: Fitting) -> None:
        super().__init__(network, LazyAdam(network.parameters(), options.learning_rate, options.weight_decay))
        self.network: Network[Batch] = network
        self.feedback, self.options, self.fitting = feedback, options, fitting
        self.advice = f"lower collaborative.options.learning_rate ({options.learning_rate:g})"

    def losses(self, share: Batch, examples: int) -> Sequence[Tensor]:
        return (self.network.losses(share).sum() / examples,)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        likes, held_out = self.feedback.likes, self.feedback.held_out
        users = np.flatnonzero(np.diff(held_out.indptr))
        if not len(users):
            return {}
        self.network.eval()
        users_US, items_IS = self.network.vectors()
        found = []
        for start in range(0, len(users), USERS_AT_ONCE):
            some = users[start : start + USERS_AT_ONCE]
            scores = users_US[torch.from_numpy(some).to(users_US.device)] @ items_IS.T
            scores[:, 0] = -torch.inf
            seen = likes[some].tocoo()
            scores[torch.from_numpy(seen.row).long(), torch.from_numpy(seen.col).long()] = -torch.inf
            best = scores.topk(min(K, scores.shape[1])).indices.cpu().numpy()
            found.append(ranking_at_k(best, held_out[some]))
        recall, ndcg = np.concatenate(found, axis=1).mean(axis=1)
        return {RECALL: float(recall), NDCG: float(ndcg)}

    def quality(self, epoch: Epoch) -> float:
        return epoch.metrics.get(NDCG, float(epoch.epoch))

    def mine(self, count: int) -> slice:
        """This worker's share of the rows of a global batch."""
        return slice(self.fitting.worker.rank, count, self.fitting.worker.world_size)


class TrainableOnClicks(TrainableVectors[Batch]):
    """Learns from every click once in an epoch."""

    @cached_property
    def clicks(self) -> tuple[Tensor, Tensor]:
        """The user and the item of each click: int64."""
        likes, device = self.feedback.likes.tocoo(), self.fitting.device
        return torch.from_numpy(likes.row.astype(np.int64)).to(device), torch.from_numpy(likes.col.astype(np.int64)).to(device)

    def steps(self, epoch: int) -> int:
        return -(-len(self.clicks[0]) // self.options.batch_size)

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Batch | None, int]]:
        order = torch.from_numpy(np.random.default_rng((self.fitting.seed, epoch)).permutation(len(self.clicks[0])))
        for step, rows in enumerate(order.split(self.options.batch_size)):
            if step >= skip:
                user, item = (column[rows.to(column.device)] for column in self.clicks)
                share = self.share(user, item, generator(self.fitting, epoch, step))
                yield (share if len(rows) > self.fitting.worker.rank else None), len(rows)

    @abstractmethod
    def share(self, user: Tensor, item: Tensor, draw: torch.Generator) -> Batch:
        """This worker's share of a batch of clicks."""


class TrainableOnPairs(TrainableOnClicks[Pairs]):
    """Shows each click beside an item that is drawn for it anew (Rendle et al., 2009)."""

    def __init__(self, network: Network[Pairs], feedback: Feedback, options: StepOptions, fitting: Fitting) -> None:
        super().__init__(network, feedback, options, fitting)
        self.key = torch.sort(self.clicks[0] * feedback.items + self.clicks[1]).values

    def share(self, user: Tensor, item: Tensor, draw: torch.Generator) -> Pairs:
        negative, mine = self._negatives(user, draw), self.mine(len(user))
        return Pairs(user[mine], item[mine], negative[mine])

    def _negatives(self, user: Tensor, draw: torch.Generator) -> Tensor:
        """An item for each user, drawn evenly among those that they have not clicked."""
        items = self.feedback.items
        found = torch.randint(1, items, user.shape, generator=draw, device=user.device)
        place = torch.arange(len(user), device=user.device)  # of those that may have been clicked
        for _ in range(DRAWS):
            key = user[place] * items + found[place]
            place = place[self.key[torch.searchsorted(self.key, key).clamp(max=len(self.key) - 1)] == key]
            if not len(place):
                break
            found[place] = torch.randint(1, items, place.shape, generator=draw, device=user.device)
        return found


class TrainableInBatch(TrainableOnClicks[InBatch]):
    """Shows each click beside those of the whole batch (Yi et al., 2019)."""

    def share(self, user: Tensor, item: Tensor, draw: torch.Generator) -> InBatch:
        mine = self.mine(len(user))
        return InBatch(user[mine], item[mine], torch.arange(len(user), device=user.device)[mine], item)


class TrainableOnUsers(TrainableVectors[Users]):
    """Learns from every user once in an epoch, with all that they have clicked."""

    def __init__(self, network: Network[Users], feedback: Feedback, options: StepOptions, fitting: Fitting) -> None:
        super().__init__(network, feedback, options, fitting)
        self.users = np.flatnonzero(np.diff(feedback.likes.indptr))

    def steps(self, epoch: int) -> int:
        return -(-len(self.users) // self.options.batch_size)

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Users | None, int]]:
        order, size = np.random.default_rng((self.fitting.seed, epoch)).permutation(self.users), self.options.batch_size
        for start in range(skip * size, len(order), size):
            users = order[start : start + size]
            share = self._share(users[self.mine(len(users))]) if len(users) > self.fitting.worker.rank else None
            yield share, int(np.diff(self.feedback.likes.indptr)[users].sum())

    def _share(self, users: np.ndarray) -> Users:
        likes: sparse.coo_array = self.feedback.likes[users].tocoo()
        columns = (users, likes.row, likes.col)
        return Users(*(torch.from_numpy(column.astype(np.int64)).to(self.fitting.device) for column in columns))


def generator(fitting: Fitting, epoch: int, step: int) -> torch.Generator:
    """What a step draws with, the same on all workers."""
    seed = int(np.random.SeedSequence((fitting.seed, epoch, step)).generate_state(1)[0])
    return torch.Generator(fitting.device).manual_seed(seed)
