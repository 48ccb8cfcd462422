"""`funk_svd`: offsets, and vectors whose product says how well a user and an item go together, by stochastic gradient descent.

The sources are Funk (2006) and Koren, Bell and Volinsky (2009), equations 4 and 5.

The predicted rating is mean + b_u + b_i + q_i . p_u. Each rating adds (r - predicted)^2 / 2 and penalty (b_u^2 + b_i^2 + |q_i|^2 +
|p_u|^2) / 2 to the loss. Shapes: B ratings of a batch, S numbers of a vector.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from rayrec.collaborative.model import Fitting
from rayrec.collaborative.rating_model import RatingModel
from rayrec.collaborative.ratings import RatingData
from rayrec.config import Count, Section
from rayrec.training.callbacks import Epoch
from rayrec.training.trainable import Trainable
from rayrec.training.trainer import Trainer

INITIAL = 0.1  # deviation of the numbers that vectors begin with


class FunkSVD(RatingModel):
    class Options(Section):
        size: Count = 32  # numbers of a vector
        epochs: Count = 50
        batch_size: Count = 256  # a step is the sum of the steps that Funk's algorithm takes for each rating
        learning_rate: Annotated[float, Field(gt=0)] = 0.01
        penalty: Annotated[float, Field(ge=0)] = 0.1

    options: Options

    def fit_ratings(self, data: RatingData, fitting: Fitting) -> list[Epoch]:
        trainable = TrainableFactors(data, self.options, fitting)
        device, worker, callback = fitting.device, fitting.worker, fitting.callback
        epochs = Trainer(self.options.epochs, fitting.seed, None, None, device, worker, callback, fitting.checkpoint).fit(trainable)
        tables = (trainable.model.users, trainable.model.items)
        user_US, item_IS = (table.weight.detach().cpu().numpy() for table in tables)
        user_US, item_IS = _rated(user_US, data.train.user), _rated(item_IS, data.train.item)
        self.set_vectors(trainable.mean, (user_US[:, 0], user_US[:, 1:]), (item_IS[:, 0], item_IS[:, 1:]))
        return epochs


class Factors(nn.Module):
    """A table for users and one for items, whose rows are the offset and then the vector."""

    def __init__(self, users: int, items: int, size: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, 1 + size, sparse=True), nn.Embedding(items, 1 + size, sparse=True)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=INITIAL)
            table.weight.data[:, 0] = 0


Batch = tuple[Tensor, Tensor, Tensor]  # user int64 [B], item int64 [B], rating above the mean float32 [B]


class TrainableFactors(Trainable[Batch]):
    model: Factors

    def __init__(self, data: RatingData, options: FunkSVD.Options, fitting: Fitting) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fitting.seed)
            model = Factors(data.users, data.items, options.size)
        model.to(fitting.device)
        # The loss is a mean over the batch; times the size of the batch, its gradient is the sum over the ratings.
        super().__init__(model, torch.optim.SGD(model.parameters(), lr=options.learning_rate * options.batch_size))
        self.options, self.fitting, self.mean = options, fitting, float(data.train.rating.mean(dtype=np.float64))
        columns = (data.train.user.astype(np.int64), data.train.item.astype(np.int64), data.train.rating - np.float32(self.mean))
        self.columns = [torch.from_numpy(column).to(fitting.device) for column in columns]
        self.advice = f"lower collaborative.options.learning_rate ({options.learning_rate:g})"

    def steps(self, epoch: int) -> int:
        return -(-len(self.columns[0]) // self.options.batch_size)

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Batch | None, int]]:
        size, worker = self.options.batch_size, self.fitting.worker
        order = torch.from_numpy(np.random.default_rng((self.fitting.seed, epoch)).permutation(len(self.columns[0])))
        for start in range(skip * size, len(order), size):
            rows = order[start : start + size]
            mine = rows[worker.rank :: worker.world_size].to(self.fitting.device)
            user_B, item_B, rating_B = (column[mine] for column in self.columns)
            yield (user_B, item_B, rating_B) if len(mine) else None, len(rows)

    def losses(self, share: Batch, examples: int) -> Sequence[Tensor]:
        user_B, item_B, rating_B = share
        user_BS, item_BS = self.model.users(user_B), self.model.items(item_B)
        predicted_B = user_BS[:, 0] + item_BS[:, 0] + (user_BS[:, 1:] * item_BS[:, 1:]).sum(dim=1)
        error = (rating_B - predicted_B).square().sum()
        return [(error + self.options.penalty * (user_BS.square().sum() + item_BS.square().sum())) / (2 * examples)]


def _rated(rows: np.ndarray, index_N: np.ndarray) -> np.ndarray:
    """The rows that training has seen, and zeros for the others, which are as they began."""
    found = np.zeros_like(rows)
    seen = np.unique(index_N)
    found[seen] = rows[seen]
    return found
