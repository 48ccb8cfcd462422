"""The sections `features`, `private_public` and `reduction`: what is extracted from media, and how it is made small."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from rayrec.config.base import Count, Section

# Every kind of vector that a video may have. This is the only place where a modality is declared.
Modality = Literal["image", "cover", "motion", "audio", "text", "private_public"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)


class ImageFeatures(Section):
    """A torchvision image classifier on sampled frames and on the cover."""

    model: str = "resnet152"
    weights: str = "DEFAULT"  # DEFAULT (torchvision's own), none (random, from the seed) or the path of a state dict
    output: Literal["logits", "pooled"] = "logits"  # logits are the sources' choice; pooled is what the last layer sees
    frames: Count = 8  # sampled evenly over the video
    fps: Annotated[float, Field(gt=0)] | None = None  # so many frames a second instead, `frames` at the most
    size: Annotated[int, Field(ge=32)] | None = None  # side of the square input, pixels; the model's own when not given
    resize: Annotated[int, Field(ge=32)] | None = None  # the short side before the square is cut out; in the model's own proportion


class MotionFeatures(Section):
    """`c3d`, or a torchvision video classifier, on clips of consecutive frames."""

    model: str = "r3d_18"
    weights: str = "DEFAULT"
    output: Literal["logits", "pooled"] = "pooled"  # what the last layer sees: of c3d it is fc7, the sources' choice
    frames: Count = 16  # of a clip
    clips: Count = 2  # spread evenly over the video; the features are their mean
    size: Annotated[int, Field(ge=32)] | None = None
    resize: Annotated[int, Field(ge=32)] | None = None


class AudioFeatures(Section):
    """pyAudioAnalysis' 34 short-term features, averaged over the windows."""

    sample_rate: Count = 22_050
    window_s: Annotated[float, Field(gt=0)] = 0.05
    step_s: Annotated[float, Field(gt=0)] = 0.025
    statistics: Literal["mean", "mean_std"] = "mean"  # mean_std: 68 numbers


class TextFeatures(Section):
    """A Hugging Face transformer on the title; needs `pip install rayrec[text]`."""

    model: str = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"  # a name, or the path of a folder
    max_tokens: Count = 64


class Features(Section):
    """What `extract` computes; a modality set to null is left out."""

    image: ImageFeatures | None = ImageFeatures()
    motion: MotionFeatures | None = MotionFeatures()
    audio: AudioFeatures | None = AudioFeatures()
    text: TextFeatures | None = None
    decoders: Count = 2  # videos decoded at once, one CPU each
    models: Count = 1  # copies of the networks
    gpus_per_model: Annotated[float, Field(ge=0)] = 0
    batch_videos: Count = 8


class Reduction(Section):
    """How `reduce` makes the extracted vectors small and comparable (SOURCES A). Fitted on the videos that training saw."""

    normalise: Literal["zscore", "minmax"] = "zscore"  # each number, before PCA
    sizes: dict[Modality, Count] = {"image": 80, "cover": 80, "motion": 160}  # by PCA; what is not named keeps its size


class PrivatePublic(Section):
    """The private/public network (SOURCES B), trained on primary classes. The source's size is 224, its body an I3D."""

    body: Literal["small", "s3d"] = "small"  # a small 3D CNN of our own, or torchvision's s3d
    weights: str = "none"  # of s3d, as in features.motion; the small body starts at random
    frames: Count = 32  # spread evenly over the video; also the slices of its sound
    size: Annotated[int, Field(ge=32)] = 112  # side of the square frames, pixels
    bands: Annotated[int, Field(ge=8)] = 64  # of the log-mel spectrograms
    width: Count = 16  # columns of the spectrogram of a slice
    branch_size: Count = 64  # numbers of each of the four branches
    similarity: Annotated[float, Field(ge=0)] = 0.1  # a: how much the public vectors draw each other
    difference: Annotated[float, Field(ge=0)] = 0.1  # b: how much private and public push each other away
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of the videos with a class that stops the training
    epochs: Count = 30
    patience: Count = 5
    batch_size: Count = 16
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    decoders: Count = 2
    workers: Annotated[int, Field(ge=0)] = 0  # 0 trains in the calling process
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _body_fits(self) -> "PrivatePublic":
        if self.body == "small" and self.weights != "none":
            raise ValueError(f"weights={self.weights!r} are for body: s3d; the small body has none (weights: none)")
        if self.body == "s3d" and (self.frames < 8 or min(self.bands, self.width) < 32):
            raise ValueError(f"s3d needs frames >= 8, bands >= 32, width >= 32, not {self.frames}, {self.bands}, {self.width}")
        return self
