"""The private/public feature network: what only a video's picture or only its sound says, and what the two have in common.

It follows Hasama & Li, "Attention-based Multimodal Feature Representation Model for Micro-video Recommendation". Picture and sound
each have a private branch of a 3D CNN, and both have a public one: a network that the two share (`public: shared`), each through a
stem of its own, or one for each (`public: separate`). The sound is read like a film: the log-mel spectrograms of equal slices, one
after the other. The network learns to predict classes; a similarity term draws the two public vectors together, and a difference
term pushes private and public apart inside each modality. The four vectors side by side are the global feature of the video.
Shapes: B videos, T frames or slices, D numbers of a branch, C classes, L numbers of a fully connected layer.
"""

from dataclasses import dataclass
from math import log
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rayrec.config import PrivatePublic
from rayrec.features.private_public.bodies import Bodies

VISUAL_PRIVATE, VISUAL_PUBLIC, AUDIO_PRIVATE, AUDIO_PUBLIC = range(4)
VISUAL, AUDIO = range(2)
BRANCHES = ((VISUAL_PRIVATE, VISUAL_PUBLIC), (AUDIO_PRIVATE, AUDIO_PUBLIC))  # of each modality
KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # torchvision's, of all bodies


@dataclass(frozen=True)
class Inputs:
    """What the network reads of B videos. The rows of a modality that a video lacks may hold anything; they are not read."""

    frames: Tensor  # uint8 [B, T, H, W, 3]
    sound: Tensor  # float16 [B, T, bands, width]
    has_frames: Tensor  # bool [B]
    has_sound: Tensor  # bool [B]

    def to(self, device: torch.device) -> "Inputs":
        return Inputs(self.frames.to(device), self.sound.to(device), self.has_frames.to(device), self.has_sound.to(device))


class Outputs(NamedTuple):
    """What the network says of B videos. Everything that comes from a modality that a video lacks is zero."""

    vectors: Tensor  # [B, 4, D], in the order of the constants above
    logits: Tensor  # of the classes, [B, C]
    publics: list[Tensor]  # [B, 2, L] of each fully connected layer at the end of the public branches, picture first


class PrivatePublicNetwork(nn.Module):
    """Raises `ConfigError` for weights that cannot be loaded or do not fit."""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: PrivatePublic, classes: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            bodies = Bodies(settings, seed)
            self.stems = nn.ModuleList(bodies.stem(channels) for channels in (3, 3, 1, 1))
            trunks = [bodies.trunk() for _ in range(2)] if settings.public == "separate" else [bodies.trunk(modalities=2)]
            self.trunks = nn.ModuleList([bodies.trunk(), bodies.trunk(), *trunks])
            self.head = nn.Linear(4 * settings.branch_size, classes)
        # The trunk of each branch, in the order of the constants above.
        self.trunk_of = (0, 2, 1, len(self.trunks) - 1)
        self.sizes = bodies.sizes
        self.register_buffer("mean", torch.tensor(KINETICS_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(KINETICS_STD), persistent=False)

    def forward(self, inputs: Inputs) -> Outputs:
        """The branches of a modality do not run for a video that lacks it."""
        count, zeros = len(inputs.frames), self.head.weight.new_zeros
        vectors_B4D, publics = zeros(count, 4, self.sizes[-1]), [zeros(count, 2, size) for size in self.sizes]
        for modality, has in ((VISUAL, inputs.has_frames), (AUDIO, inputs.has_sound)):
            rows = has.nonzero().squeeze(1)
            if not len(rows):
                continue
            film = self._pictures(inputs.frames[rows]) if modality == VISUAL else _spectrograms(inputs.sound[rows])
            private, public = BRANCHES[modality]
            for branch in (private, public):
                outputs = self.trunks[self.trunk_of[branch]](self.stems[branch](film), modality)
                vectors_B4D[rows, branch] = outputs[-1]
            for layer, output in zip(publics, outputs, strict=True):
                layer[rows, modality] = output
        return Outputs(vectors_B4D, self.head(vectors_B4D.flatten(1)), publics)

    def _pictures(self, frames: Tensor) -> Tensor:
        """uint8 [B, T, H, W, 3] -> a film [B, 3, T, H, W] with normalised colours."""
        return ((frames.float() / 255 - self.mean) / self.std).movedim(-1, 1)


def _spectrograms(sound: Tensor) -> Tensor:
    """float16 [B, T, bands, width] -> a film [B, 1, T, bands, width]

    A video's spectrograms get mean 0 and deviation 1 over all slices, so that the loudness of a recording does not count.
    """
    sound = sound.float()
    mean = sound.mean((1, 2, 3), keepdim=True)
    return ((sound - mean) / sound.std((1, 2, 3), keepdim=True).clamp(min=1e-3)).unsqueeze(1)


# --- the losses -----------------------------------------------------------------------------------------------------------------


class Losses(NamedTuple):
    """Scalars; training minimises the first."""

    loss: Tensor
    classification: Tensor
    similarity: Tensor
    difference: Tensor


def counts_of(inputs: Inputs, labels_B: Tensor) -> Tensor:
    """How many videos have a class, both picture and sound, a picture, a sound: float32 [4]."""
    masks = (labels_B >= 0, inputs.has_frames & inputs.has_sound, inputs.has_frames, inputs.has_sound)
    return torch.stack([mask.sum() for mask in masks]).float()


def losses(outputs: Outputs, inputs: Inputs, labels_B: Tensor, settings: PrivatePublic, counts: Tensor | None = None) -> Losses:
    """The loss is classification + a * similarity - b * difference.

    The similarity of N videos is 1 / (2 N) of the sum of the squared distances between their two public vectors, at the output of
    each fully connected layer. The difference is that of `bounded_difference`, inside the picture and inside the sound.

    A term is a mean over the videos that have what it needs; a term that no video counts for is 0. A video without a class (label
    -1) does not count for the classification; one without picture or without sound counts neither for the similarity nor for the
    difference inside the modality that it lacks. Where these rows are a worker's share of a batch, `counts` is the sum of all
    workers' `counts_of`: the terms of all shares then add up to those of the batch.
    """
    labelled, both, seen, heard = (counts_of(inputs, labels_B) if counts is None else counts).clamp(min=1)
    rows = cross_entropy(outputs.logits, labels_B.clamp(min=0), reduction="none")
    classification = _masked_sum(rows, labels_B >= 0) / labelled
    distance_B = torch.stack([(public[:, VISUAL] - public[:, AUDIO]).square().sum(-1) for public in outputs.publics]).sum(0)
    similarity = _masked_sum(distance_B, inputs.has_frames & inputs.has_sound) / (2 * both)
    vectors = outputs.vectors
    visual = bounded_difference(vectors[:, VISUAL_PRIVATE], vectors[:, VISUAL_PUBLIC])
    audio = bounded_difference(vectors[:, AUDIO_PRIVATE], vectors[:, AUDIO_PUBLIC])
    difference = _masked_sum(visual, inputs.has_frames) / seen + _masked_sum(audio, inputs.has_sound) / heard
    loss = classification + settings.similarity * similarity - settings.difference * difference
    return Losses(loss, classification, similarity, difference)


def bounded_difference(private_BD: Tensor, public_BD: Tensor) -> Tensor:
    """tanh of KL(softmax(private) || softmax(public)), in bits: [B], each in 0..1.

    The divergence is maximised and has no upper bound, so that minimising -KL alone would only make the vectors ever larger. While
    the divergence is small, tanh is nearly the same; where the two already differ, its slope fades. A clamp would stop the gradient
    at one point and leave it whole up to there.
    """
    private, public = private_BD.log_softmax(-1), public_BD.log_softmax(-1)
    return torch.tanh((private.exp() * (private - public)).sum(-1) / log(2))


def _masked_sum(values_B: Tensor, mask_B: Tensor) -> Tensor:
    return torch.where(mask_B, values_B, 0).sum()
