"""The private/public feature network: what only a video's picture or only its sound says, and what the two have in common.

It follows Hasama & Li, "Attention-based Multimodal Feature Representation Model for Micro-video Recommendation". There are four
branches of a 3D CNN: visual private, visual public, audio private, audio public. The sound is read like a film: the log-mel
spectrograms of equal slices, one after the other. The network learns to predict classes; a similarity term draws the two public
vectors together, and a difference term pushes private and public apart inside each modality. The four vectors side by side are the
global feature of the video. Shapes: B videos, T frames or slices, D numbers of a branch, C classes.
"""

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rayrec.config import MotionFeatures, PrivatePublic
from rayrec.features.motion import MOTION_MODELS
from rayrec.features.networks import build

VISUAL_PRIVATE, VISUAL_PUBLIC, AUDIO_PRIVATE, AUDIO_PUBLIC = range(4)
CHANNELS = (16, 32, 64, 128)  # of the small body's layers
KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # torchvision's, for s3d
S3D_INPUT = (32, 224, 224, 3)


@dataclass(frozen=True)
class Inputs:
    """What the network reads of B videos. The rows of a modality that a video lacks may hold anything; they are not read."""

    frames: Tensor  # uint8 [B, T, H, W, 3]
    sound: Tensor  # float16 [B, T, bands, width]
    has_frames: Tensor  # bool [B]
    has_sound: Tensor  # bool [B]

    def to(self, device: torch.device) -> "Inputs":
        return Inputs(self.frames.to(device), self.sound.to(device), self.has_frames.to(device), self.has_sound.to(device))


class PrivatePublicNetwork(nn.Module):
    """Raises `ConfigError` for weights that cannot be loaded or do not fit."""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: PrivatePublic, classes: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.visual = nn.ModuleDict(_pair(settings, 3, seed))
            self.audio = nn.ModuleDict(_pair(settings, 1, seed))
            self.head = nn.Linear(4 * settings.branch_size, classes)
        self.size = settings.branch_size
        self.register_buffer("mean", torch.tensor(KINETICS_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(KINETICS_STD), persistent=False)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The four vectors [B, 4, D], in the order of the constants above, and the logits of the classes [B, C].

        The vectors of a modality that a video lacks are zeros, and its branches do not run for that video.
        """
        vectors_B4D = self.head.weight.new_zeros(len(inputs.frames), 4, self.size)
        seen, heard = inputs.has_frames.nonzero().squeeze(1), inputs.has_sound.nonzero().squeeze(1)
        if len(seen):
            pixels = (inputs.frames[seen].float() / 255 - self.mean) / self.std
            found = [self.visual[name](pixels.movedim(-1, 1)) for name in ("private", "public")]
            vectors_B4D[seen, VISUAL_PRIVATE], vectors_B4D[seen, VISUAL_PUBLIC] = found
        if len(heard):
            films = _standardised(inputs.sound[heard].float()).unsqueeze(1)
            found = [self.audio[name](films) for name in ("private", "public")]
            vectors_B4D[heard, AUDIO_PRIVATE], vectors_B4D[heard, AUDIO_PUBLIC] = found
        return vectors_B4D, self.head(vectors_B4D.flatten(1))


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


def losses(
    vectors_B4D: Tensor,
    logits_BC: Tensor,
    inputs: Inputs,
    labels_B: Tensor,
    settings: PrivatePublic,
    counts: Tensor | None = None,
) -> Losses:
    """The loss is classification + a * similarity - b * difference.

    A term is a mean over the videos that have what it needs; a term that no video counts for is 0. A video without a class (label
    -1) does not count for the classification; one without picture or without sound counts neither for the similarity nor for the
    difference inside the modality that it lacks. Where these rows are a worker's share of a batch, `counts` is the sum of all
    workers' `counts_of`: the terms of all shares then add up to those of the batch.
    """
    labelled, both, seen, heard = (counts_of(inputs, labels_B) if counts is None else counts).clamp(min=1)
    rows = cross_entropy(logits_BC, labels_B.clamp(min=0), reduction="none")
    classification = _masked_sum(rows, labels_B >= 0) / labelled
    distance = (vectors_B4D[:, VISUAL_PUBLIC] - vectors_B4D[:, AUDIO_PUBLIC]).square().sum(-1)
    similarity = _masked_sum(distance, inputs.has_frames & inputs.has_sound) / both
    visual = bounded_difference(vectors_B4D[:, VISUAL_PRIVATE], vectors_B4D[:, VISUAL_PUBLIC])
    audio = bounded_difference(vectors_B4D[:, AUDIO_PRIVATE], vectors_B4D[:, AUDIO_PUBLIC])
    difference = _masked_sum(visual, inputs.has_frames) / seen + _masked_sum(audio, inputs.has_sound) / heard
    loss = classification + settings.similarity * similarity - settings.difference * difference
    return Losses(loss, classification, similarity, difference)


def bounded_difference(private_BD: Tensor, public_BD: Tensor) -> Tensor:
    """tanh of KL(softmax(private) || softmax(public)), in nats: [B], each in 0..1.

    The divergence is maximised and has no upper bound, so that minimising -KL alone would only make the vectors ever larger. While
    the divergence is small, tanh is nearly the same; where the two already differ, its slope fades. A clamp would stop the gradient
    at one point and leave it whole up to there.
    """
    private, public = private_BD.log_softmax(-1), public_BD.log_softmax(-1)
    return torch.tanh((private.exp() * (private - public)).sum(-1))


def _masked_sum(values_B: Tensor, mask_B: Tensor) -> Tensor:
    return torch.where(mask_B, values_B, 0).sum()


# --- the branches ---------------------------------------------------------------------------------------------------------------


def _pair(settings: PrivatePublic, channels: int, seed: int) -> dict[str, nn.Module]:
    """The private and the public branch of a modality, each from [B, channels, T, H, W] to [B, D]."""
    if settings.body == "small":
        return {name: small_body(channels, settings.branch_size) for name in ("private", "public")}
    body = _s3d(settings.weights, seed)
    return {name: _S3DBranch(copy.deepcopy(body), settings.branch_size) for name in ("private", "public")}


def small_body(channels: int, size: int) -> nn.Sequential:
    """Four 3x3x3 convolutions, each of which halves time, height and width, then the mean over all positions.

    It has group norms, not batch norms, so that the vectors of a video do not depend on the other videos of its batch, which may be
    small on each of many workers.
    """
    layers: list[nn.Module] = []
    for before, after in zip((channels, *CHANNELS), CHANNELS, strict=False):
        layers += [nn.Conv3d(before, after, 3, stride=2, padding=1, bias=False), nn.GroupNorm(8, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(CHANNELS[-1], size))


class _S3DBranch(nn.Module):
    """torchvision's s3d, a separable I3D, for inputs of any size; a projection to `size` numbers replaces its classifier."""

    def __init__(self, body: nn.Module, size: int) -> None:
        super().__init__()
        body.avgpool = nn.AdaptiveAvgPool3d(1)
        body.classifier = nn.Conv3d(1024, size, 1)
        self.body = body

    def forward(self, film: Tensor) -> Tensor:
        """A film of one channel is repeated in all three, so that weights that were trained on pictures remain useful."""
        return self.body(film.expand(-1, 3, -1, -1, -1))


def _s3d(weights: str, seed: int) -> nn.Module:
    if weights == "none":
        return torchvision.models.video.s3d()
    settings = MotionFeatures(model="s3d", weights=weights, output="pooled", frames=S3D_INPUT[0], size=S3D_INPUT[1])
    return build(MOTION_MODELS, "private_public", settings, S3D_INPUT, seed).body


def _standardised(sound: Tensor) -> Tensor:
    """Each video's spectrograms with mean 0 and deviation 1 over all slices, so that the loudness of a recording does not count."""
    mean = sound.mean((1, 2, 3), keepdim=True)
    return (sound - mean) / sound.std((1, 2, 3), keepdim=True).clamp(min=1e-3)
