"""`pmf`: probabilistic matrix factorisation whose priors are learned, all parts by one objective.

As in ConvMF (Kim et al., 2016), CDL (Wang et al., 2015) and PHD (Liu et al., 2018), the vector of a user is drawn from a normal
distribution around what a network makes of the user's side information, that of a track from one around what a network makes of its
content, and a rating from one around their product. The most probable vectors and networks minimise

    sum over ratings of (r - mean - b_u - c_t - p_u q_t)^2
    + user_penalty  * sum over users of  |(b_u, p_u) - sdae(x_u)|^2
    + track_penalty * sum over tracks of |(c_t, q_t) - cnn(z_t)|^2
    + reconstruction * sum over users of -log P(x_u | sdae(x_u))

and the weight decay of the networks. The tables hold the differences in the brackets, so that the errors of the ratings reach the
networks too. A user or a track without ratings has the difference 0, and thus what the network says. The terms of a user or a track
are spread over its ratings, so that an epoch has each of them once.

Shapes: B ratings of a batch, R different users or tracks of it, U users, T tracks, V = S + 1 numbers of a vector and its offset,
which comes first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rayrec.collaborative.fitting import generator
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.ratings import Ratings
from rayrec.config import Music
from rayrec.music.data import MusicData
from rayrec.music.networks import Prior, SoundCNN, UserAutoencoder, WordCNN
from rayrec.training.callbacks import Epoch
from rayrec.training.optimizers import LazyAdam
from rayrec.training.trainable import Trainable
from rayrec.training.trainer import Trainer

INITIAL = 0.1  # deviation of the numbers that the differences begin with
ROWS_AT_ONCE = 64  # whose content a network reads at once after the training
RMSE, MAE = "validation_rmse", "validation_mae"


@dataclass(frozen=True)
class Vectors:
    """What the model has learned. Row 0 of the users is the mean of all users, for one of whom nothing is known."""

    mean: float
    low: float  # no prediction leaves the range from low to high
    high: float
    user_UV: np.ndarray  # float32
    track_TV: np.ndarray  # float32

    def predict(self, user_N: np.ndarray, track_N: np.ndarray) -> np.ndarray:
        """The predicted rating of each pair: float32 [N]."""
        users_NV, tracks_NV = self.user_UV[user_N], self.track_TV[track_N]
        found = self.mean + users_NV[:, 0] + tracks_NV[:, 0] + np.einsum("ns,ns->n", users_NV[:, 1:], tracks_NV[:, 1:])
        return np.clip(found, self.low, self.high)


def fit(data: MusicData, settings: Music, fitting: Fitting) -> tuple[Vectors, list[Epoch]]:
    """Learn from the ratings, some of which are held out to choose the epoch. Raises `DivergedError`."""
    train, held_out = split(data.ratings, settings.held_out, fitting.seed)
    trainable = TrainablePMF(data, train, held_out, settings, fitting)
    patience = settings.patience if len(held_out) else None
    trainer = Trainer(
        settings.epochs, fitting.seed, patience, None, fitting.device, fitting.worker, fitting.callback, fitting.checkpoint
    )
    epochs = trainer.fit(trainable)
    return trainable.vectors(), epochs


def split(ratings: Ratings, share: float, seed: int) -> tuple[Ratings, Ratings]:
    """The ratings to learn from, and a random share that is held out."""
    order = np.random.default_rng(seed).permutation(len(ratings))
    held_out = min(round(share * len(ratings)), len(ratings) - 1)
    return ratings.take(np.sort(order[held_out:])), ratings.take(np.sort(order[:held_out]))


class PMF(nn.Module):
    """The tables of differences, and the networks that say what they differ from."""

    def __init__(self, data: MusicData, settings: Music) -> None:
        super().__init__()
        size = 1 + settings.size
        self.users, self.tracks = (nn.Embedding(len(ids) + 1, size, sparse=True) for ids in (data.users, data.tracks))
        for table in (self.users, self.tracks):
            nn.init.normal_(table.weight, std=INITIAL)
            table.weight.data[:, 0] = 0
        self.user_prior: UserAutoencoder | None = None
        if settings.users == "sdae":
            self.user_prior = UserAutoencoder(data.facts_UF, size, settings.sdae)
        self.track_prior: Prior | None = None
        if settings.tracks == "words":
            self.track_prior = WordCNN(data.words_TL, size, settings.words)
        elif settings.tracks == "sound":
            self.track_prior = SoundCNN(data.patches_TP, data.patch_count_T, size, settings.sound)


@dataclass(frozen=True)
class Side:
    """The users, or the tracks, of a worker's share of a batch."""

    row_R: Tensor  # int64, each once
    place_B: Tensor  # int64: where the one of each rating is among them
    drawn_RD: Tensor | None  # uniform numbers for the network


@dataclass(frozen=True)
class Batch:
    users: Side
    tracks: Side
    rating_B: Tensor  # float32, above the mean


class TrainablePMF(Trainable[Batch]):
    """The model with its ratings. The best epoch is the one with the lowest error on the ratings that are held out."""

    model: PMF
    terms = ("loss", "squared_error")

    def __init__(self, data: MusicData, train: Ratings, held_out: Ratings, settings: Music, fitting: Fitting) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fitting.seed)
            model = PMF(data, settings)
        model.to(fitting.device)
        tables = [model.users.weight, model.tracks.weight]
        networks = [parameter for prior in _priors(model) for parameter in prior.parameters()]
        groups: list[dict[str, Any]] = [{"params": tables, "weight_decay": 0.0}, *([{"params": networks}] if networks else [])]
        super().__init__(model, LazyAdam(groups, settings.learning_rate, settings.weight_decay))
        self.train, self.held_out, self.settings, self.fitting = train, held_out, settings, fitting
        self.mean = float(train.rating.mean(dtype=np.float64))
        self.low, self.high = settings.data.rating_range or (float(data.ratings.rating.min()), float(data.ratings.rating.max()))
        device = fitting.device
        self.user_N, self.track_N = (torch.from_numpy(each.astype(np.int64)).to(device) for each in (train.user, train.item))
        self.rating_N = torch.from_numpy(train.rating - np.float32(self.mean)).to(device)
        self.count_U = torch.bincount(self.user_N, minlength=len(data.users) + 1)
        self.count_T = torch.bincount(self.track_N, minlength=len(data.tracks) + 1)
        self.advice = f"lower music.learning_rate ({settings.learning_rate:g})"

    def steps(self, epoch: int) -> int:
        return -(-len(self.train) // self.settings.batch_size)

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Batch | None, int]]:
        size, worker, device = self.settings.batch_size, self.fitting.worker, self.fitting.device
        order = torch.from_numpy(np.random.default_rng((self.fitting.seed, epoch)).permutation(len(self.train))).to(device)
        for step in range(skip, self.steps(epoch)):
            rows = order[step * size : (step + 1) * size]
            draw = generator(self.fitting, epoch, step)
            mine = slice(worker.rank, None, worker.world_size)
            users = _side(self.user_N[rows], mine, self.model.user_prior, draw)
            tracks = _side(self.track_N[rows], mine, self.model.track_prior, draw)
            share = Batch(users, tracks, self.rating_N[rows[mine]])
            yield share if len(share.rating_B) else None, len(rows)

    def losses(self, share: Batch, examples: int) -> Sequence[Tensor]:
        model, settings = self.model, self.settings
        user_RV, user_terms_R = self._side(share.users, model.users, model.user_prior, settings.user_penalty, self.count_U)
        track_RV, track_terms_R = self._side(share.tracks, model.tracks, model.track_prior, settings.track_penalty, self.count_T)
        user_BV, track_BV = user_RV[share.users.place_B], track_RV[share.tracks.place_B]
        error = (share.rating_B - products(user_BV, track_BV)).square().sum() / examples
        terms = user_terms_R[share.users.place_B].sum() + track_terms_R[share.tracks.place_B].sum()
        return error + terms / examples, error

    def _side(
        self, side: Side, table: nn.Embedding, prior: Prior | None, penalty: float, count_of: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The vector of each user or track, and its terms of the objective for one of its ratings."""
        difference_RV = table(side.row_R)
        terms_R = penalty * difference_RV.square().sum(dim=1)
        vector_RV = difference_RV
        if prior is not None:
            mean_RV = prior(side.row_R, side.drawn_RD)
            vector_RV = mean_RV + difference_RV
            if isinstance(prior, UserAutoencoder):
                terms_R = terms_R + self.settings.sdae.reconstruction * prior.reconstruction(side.row_R, mean_RV)
        return vector_RV, terms_R / count_of[side.row_R]

    def validate(self) -> dict[str, float]:
        if not len(self.held_out):
            return {}
        error_N = self.vectors().predict(self.held_out.user, self.held_out.item) - self.held_out.rating
        return {RMSE: float(np.sqrt((error_N**2).mean())), MAE: float(np.abs(error_N).mean())}

    def quality(self, epoch: Epoch) -> float:
        return -epoch.metrics[RMSE] if RMSE in epoch.metrics else float(epoch.epoch)

    @torch.no_grad()
    def vectors(self) -> Vectors:
        """The vectors of all users and tracks. Those without ratings have what the networks say; without a network, the mean."""
        model = self.model.eval()
        user_UV = _vectors(model.users, model.user_prior, self.count_U)
        track_TV = _vectors(model.tracks, model.track_prior, self.count_T)
        user_UV[0], track_TV[0] = user_UV[1:].mean(axis=0), 0
        return Vectors(self.mean, self.low, self.high, user_UV, track_TV)


def products(user_BV: Tensor, track_BV: Tensor) -> Tensor:
    """How far each expected rating is above the mean of all: the offsets, and the product of the other numbers."""
    return user_BV[:, 0] + track_BV[:, 0] + (user_BV[:, 1:] * track_BV[:, 1:]).sum(dim=1)


def _priors(model: PMF) -> list[Prior]:
    return [prior for prior in (model.user_prior, model.track_prior) if prior is not None]


def _side(number_B: Tensor, mine: slice, prior: Prior | None, draw: torch.Generator) -> Side:
    """This worker's part of what a global batch of ratings has on one side. What is drawn is drawn for all of it."""
    row_A = torch.unique(number_B)
    row_R, place_B = torch.unique(number_B[mine], return_inverse=True)
    drawn_RD = None
    if prior is not None:
        drawn_AD = torch.rand(len(row_A), prior.draws, generator=draw, device=number_B.device)
        drawn_RD = drawn_AD[torch.searchsorted(row_A, row_R)]
    return Side(row_R, place_B, drawn_RD)


def _vectors(table: nn.Embedding, prior: Prior | None, count: Tensor) -> np.ndarray:
    """float32 [rows, V]; without a network, rows without ratings have the mean of the others."""
    rated = count > 0
    found = table.weight.masked_fill(~rated[:, None], 0)
    if prior is None:
        found[~rated] = found[rated].mean(dim=0)
    else:
        rows = torch.arange(1, len(found), device=found.device)
        found[1:] += torch.cat([prior(some) for some in rows.split(ROWS_AT_ONCE)])
    vectors: np.ndarray = found.cpu().numpy()
    return vectors
