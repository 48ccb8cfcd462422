"""The networks whose outputs are the means of the priors: of a user's vector, and of a track's.

All randomness of the training is handed in as uniform numbers, so that any number of workers sees the same. They hide inputs or
units as dropout does: what stays is scaled up, so that nothing needs to be scaled afterwards.
Shapes: R rows of users or tracks, D numbers that are drawn for a row, V = S + 1 numbers of a vector and its offset, F facts, L
words, E numbers of a word, P patches, C channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad

from rayrec.config import SoundNetwork, UserNetwork, WordNetwork
from rayrec.features.yamnet.spectrogram import BANDS

GROUPS = 4  # of the channels that are normalised together


class Prior(nn.Module, ABC):
    """A network that knows the contents of all users or tracks by their numbers."""

    draws: int
    """D: how many uniform numbers training draws for a row."""

    @abstractmethod
    def forward(self, row_R: Tensor, drawn_RD: Tensor | None = None) -> Tensor:
        """The mean of the prior of each row: float32 [R, V]; without drawn numbers nothing is hidden."""


def hidden(values: Tensor, drawn: Tensor | None, rate: float) -> Tensor:
    """The values without those whose uniform number is below the rate; the others are scaled so that their expectation stays."""
    return values if drawn is None or not rate else values * (drawn >= rate) / (1 - rate)


class UserAutoencoder(Prior):
    """A stacked denoising autoencoder (Vincent et al., 2010) whose bottleneck is the mean of the prior.

    The side information enters below, and again at the bottleneck, as in the additional autoencoder of Dong et al. (2017):
    z = W h(x~) + A x~ + b, where x~ are the facts without those that are hidden. The decoder restores the facts from z alone.
    """

    facts_UF: Tensor

    def __init__(self, facts_UF: np.ndarray, size: int, settings: UserNetwork) -> None:
        super().__init__()
        self.register_buffer("facts_UF", torch.from_numpy(facts_UF), persistent=False)
        self.noise, self.draws = settings.noise, facts_UF.shape[1]
        self.encoder = _layers([self.draws, *settings.hidden])
        self.bottleneck = nn.Linear(settings.hidden[-1] if settings.hidden else self.draws, size)
        self.side = nn.Linear(self.draws, size, bias=False)
        self.decoder = _layers([size, *reversed(settings.hidden)])
        self.restored = nn.Linear(settings.hidden[0] if settings.hidden else size, self.draws)

    def forward(self, row_R: Tensor, drawn_RD: Tensor | None = None) -> Tensor:
        facts_RF = hidden(self.facts_UF[row_R], drawn_RD, self.noise)
        found: Tensor = self.bottleneck(self.encoder(facts_RF)) + self.side(facts_RF)
        return found

    def reconstruction(self, row_R: Tensor, vector_RV: Tensor) -> Tensor:
        """The negative log likelihood of each user's facts, all of them, given the bottleneck: float32 [R]."""
        logits_RF = self.restored(self.decoder(vector_RV))
        return binary_cross_entropy_with_logits(logits_RF, self.facts_UF[row_R], reduction="none").sum(dim=1)


class WordCNN(Prior):
    """Convolutions over the embedded words, the largest value of each filter, and a linear layer (Kim, 2014; Kim et al., 2016)."""

    words_TL: Tensor

    def __init__(self, words_TL: np.ndarray, size: int, settings: WordNetwork) -> None:
        super().__init__()
        self.register_buffer("words_TL", torch.from_numpy(words_TL), persistent=False)
        self.dropout, self.draws = settings.dropout, settings.filters * len(settings.windows)
        self.embedding = nn.Embedding(int(words_TL.max()) + 1, settings.embedding, padding_idx=0)
        self.windows = settings.windows
        self.filters = nn.ModuleList(nn.Conv1d(settings.embedding, settings.filters, window) for window in settings.windows)
        self.output = nn.Linear(self.draws, size)

    def forward(self, row_R: Tensor, drawn_RD: Tensor | None = None) -> Tensor:
        word_RL = self.words_TL[row_R]
        embedded_REL = self.embedding(word_RL).transpose(1, 2)
        is_word_R1L = (word_RL > 0)[:, None]
        found = []
        for window, convolution in zip(self.windows, self.filters, strict=True):
            padded_REL = pad(embedded_REL, (0, window - 1))  # so that every word begins a window
            found.append((convolution(padded_REL).relu() * is_word_R1L).amax(dim=2))
        output: Tensor = self.output(hidden(torch.cat(found, dim=1), drawn_RD, self.dropout))
        return output


class SoundCNN(Prior):
    """Convolutions over patches of a log-mel spectrogram, each band normalised; their mean over time; and a linear layer.

    Training hears one patch of each track at a time, drawn anew; otherwise the mean over all patches counts. A track without sound
    has only the constant of the last layer.
    """

    patches_TP: Tensor
    count_T: Tensor
    mean_B: Tensor
    scale_B: Tensor

    def __init__(self, patches_TP: np.ndarray, count_T: np.ndarray, size: int, settings: SoundNetwork) -> None:
        super().__init__()
        self.register_buffer("patches_TP", torch.from_numpy(patches_TP), persistent=False)
        self.register_buffer("count_T", torch.from_numpy(count_T), persistent=False)
        mean_B, scale_B = band_scales(patches_TP, count_T)
        self.register_buffer("mean_B", torch.from_numpy(mean_B), persistent=False)
        self.register_buffer("scale_B", torch.from_numpy(scale_B), persistent=False)
        layers: list[nn.Module] = []
        for before, channels in pairwise([1, *settings.channels]):
            layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1), nn.GroupNorm(_groups(channels), channels), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        bands = BANDS
        for _ in settings.channels:
            bands = -(-bands // 2)
        width = settings.channels[-1] * bands
        self.dropout, self.draws = settings.dropout, 1 + width
        self.output = nn.Linear(width, size)

    def forward(self, row_R: Tensor, drawn_RD: Tensor | None = None) -> Tensor:
        count_R = self.count_T[row_R]
        if drawn_RD is not None:
            chosen_R = (drawn_RD[:, 0] * count_R).long()
            found = self._features(self.patches_TP[row_R, chosen_R]) * (count_R > 0)[:, None]
            return self._output(hidden(found, drawn_RD[:, 1:], self.dropout))
        place_N, patch_N = (torch.arange(self.patches_TP.shape[1], device=row_R.device) < count_R[:, None]).nonzero(as_tuple=True)
        features_ND = self._features(self.patches_TP[row_R[place_N], patch_N])
        sums = features_ND.new_zeros(len(row_R), features_ND.shape[1]).index_add_(0, place_N, features_ND)
        return self._output(sums / count_R.clamp(min=1)[:, None])

    def _features(self, patches: Tensor) -> Tensor:
        """[N, time, bands] -> [N, channels x bands]."""
        normalised = (patches - self.mean_B) / self.scale_B
        found: Tensor = self.layers(normalised[:, None]).mean(dim=2).flatten(1)
        return found

    def _output(self, features: Tensor) -> Tensor:
        found: Tensor = self.output(features)
        return found


def band_scales(patches_TP: np.ndarray, count_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation of each band over all patches: float32 [bands] each."""
    counted, sums, squares = 0, np.zeros(BANDS), np.zeros(BANDS)
    for patches, count in zip(patches_TP, count_T, strict=True):
        values = patches[:count].reshape(-1, BANDS).astype(np.float64)
        counted, sums, squares = counted + len(values), sums + values.sum(axis=0), squares + (values**2).sum(axis=0)
    mean = sums / max(1, counted)
    scale = np.sqrt(np.maximum(squares / max(1, counted) - mean**2, 1e-6))
    return mean.astype(np.float32), scale.astype(np.float32)


def _groups(channels: int) -> int:
    return GROUPS if channels % GROUPS == 0 else 1


def _layers(sizes: Sequence[int]) -> nn.Sequential:
    layers = [nn.Sequential(nn.Linear(before, after), nn.Tanh()) for before, after in pairwise(sizes)]
    return nn.Sequential(*layers)
